"""A daemon that writes every result of an app into the app's own Postgres, with pgvector.

    pip install podium-client asyncpg numpy
    export PODIUM_ADDRESS=... PODIUM_TOKEN=...               # of the app; or `podium up` on this machine
    python examples/pgvector_daemon.py postgresql://user:password@host/database --group pgvector

The rule, on which everything rests:

    A delivery is written in ONE transaction, under the key (job_id, item_index), and acknowledged AFTER its commit.

Podium delivers at least once: what was not acknowledged comes again, to this daemon or to another of its group. Killed
before the commit, the daemon has written nothing, and the delivery comes again: nothing is lost. Killed between the
commit and the acknowledgement, it gets the delivery once more and overwrites its rows with the same content: nothing is
there twice. So kill -9 at any moment, of any number of daemons, leaves a table in which every item is exactly once.

Run as many as you like with the same --group: they share the work. SIGTERM ends a daemon cleanly: the delivery in hand
is committed and acknowledged, the rest goes to the others at once. While Postgres is away nothing is acknowledged, and
Podium keeps the results.

Items without a vector have their typed error in the columns error_reason and error_message. A row of podium_jobs says
that a job is over; it comes after everything else of that job has been committed by this group. Only if no daemon ran
for as long as Podium keeps results, some of them are gone: results_expired says so.

Run it under a supervisor that starts it again (systemd, Kubernetes, a loop in a shell). It waits while Postgres is
away, and the client waits a while for Podium; what goes on for longer, or will not pass by itself, ends it with one
line on stderr and status 1. Nothing is lost by that, however often it happens.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import aclosing, suppress

import asyncpg
import numpy as np

from podium_client import AsyncClient, Delivery, PodiumError, ResultDelivery

_SCHEMA = """
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE IF NOT EXISTS podium_items (
        job_id uuid NOT NULL,
        item_index integer NOT NULL,
        key text,
        embedding vector,
        error_reason text,
        error_message text,
        PRIMARY KEY (job_id, item_index)
    );
    CREATE TABLE IF NOT EXISTS podium_jobs (
        job_id uuid PRIMARY KEY,
        state text NOT NULL,
        results_expired boolean NOT NULL
    );
"""
# A table that an older version of this daemon has made. Asked first: ALTER TABLE keeps everybody else out.
_LACKS_EXPIRED = """
    SELECT NOT EXISTS (SELECT FROM pg_attribute
                       WHERE attrelid = 'podium_jobs'::regclass AND attname = 'results_expired' AND NOT attisdropped)
"""
_ADD_EXPIRED = "ALTER TABLE podium_jobs ADD COLUMN results_expired boolean NOT NULL DEFAULT false"
# Two daemons that start at the same time must not both create the extension.
_SCHEMA_LOCK = 0x706F6469756D

_WRITE_ITEMS = """
    INSERT INTO podium_items (job_id, item_index, key, embedding, error_reason, error_message)
    SELECT $1, * FROM unnest($2::int[], $3::text[], $4::vector[], $5::text[], $6::text[])
    ON CONFLICT (job_id, item_index) DO UPDATE SET key = excluded.key, embedding = excluded.embedding,
        error_reason = excluded.error_reason, error_message = excluded.error_message
"""
_WRITE_JOB = """
    INSERT INTO podium_jobs (job_id, state, results_expired) VALUES ($1, $2, $3)
    ON CONFLICT (job_id) DO UPDATE SET state = excluded.state, results_expired = excluded.results_expired
"""
_AWAY = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)
# Two daemons write the same rows when a delivery comes twice. The loser's transaction was rolled back, and may be tried
# again.
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_CONFLICT_TRIES = 10
_CONFLICT_PAUSE_S = 0.05
_PAUSE_S = 1.0


def encode_vector(row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bytes:
    """One vector as pgvector's binary format: dimension, 0, then big-endian float32.

    https://github.com/pgvector/pgvector/blob/master/src/vector.c (vector_recv)
    """
    return struct.pack(">HH", len(row), 0) + row.astype(">f4").tobytes()


async def connect(url: str) -> asyncpg.Connection:
    """A connection that knows vectors, to a database that has the tables."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
        await connection.execute(_SCHEMA)
        if await connection.fetchval(_LACKS_EXPIRED):
            await connection.execute(_ADD_EXPIRED)
    schema = await connection.fetchval("SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace "
                                       "WHERE t.typname = 'vector'")  # fmt: skip
    await connection.set_type_codec("vector", schema=schema, encoder=bytes, decoder=bytes, format="binary")
    return connection


def rows(delivery: ResultDelivery) -> Iterator[tuple[int, str | None, bytes | None, str | None, str | None]]:
    """(item_index, key, vector, error_reason, error_message) of each covered item; a column of type vector takes
    float32, whatever dtype the job asked for."""
    keys = delivery.keys or (None,) * delivery.item_count
    first = delivery.first_item
    for index, vector in zip(delivery.rows, delivery.to_float32(), strict=True):
        yield int(index), keys[index - first], encode_vector(vector), None, None
    for error in delivery.errors:
        yield error.index, keys[error.index - first], None, error.reason, error.message


async def write(connection: asyncpg.Connection, delivery: Delivery) -> None:
    """Commits one delivery: all of it or nothing."""
    for tries_left in reversed(range(_CONFLICT_TRIES)):
        try:
            return await _write_once(connection, delivery)
        except _CONFLICTS:
            if not tries_left:
                raise
            await asyncio.sleep(_CONFLICT_PAUSE_S * random.random() * (_CONFLICT_TRIES - tries_left))


async def _write_once(connection: asyncpg.Connection, delivery: Delivery) -> None:
    async with connection.transaction():
        if isinstance(delivery, ResultDelivery):
            indexes, keys, vectors, reasons, messages = zip(*rows(delivery), strict=True)
            await connection.execute(_WRITE_ITEMS, delivery.job_id, indexes, keys, vectors, reasons, messages)
        else:
            job = delivery.job
            await connection.execute(_WRITE_JOB, job.job_id, job.state.value, job.results_expired)


async def consume(client: AsyncClient, connection: asyncpg.Connection, group: str, stop: asyncio.Event) -> None:
    """Writes and acknowledges deliveries until `stop`."""
    stopped = asyncio.create_task(stop.wait())
    try:
        async with aclosing(client.consume(group=group)) as deliveries:
            while True:
                following = asyncio.ensure_future(anext(deliveries))
                await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    # Nothing is in hand. Only the wait is cancelled: there is nothing to undo.
                    following.cancel()
                    with suppress(asyncio.CancelledError):
                        await following
                    return
                delivery = following.result()
                await write(connection, delivery)
                await delivery.ack()
                if stop.is_set():
                    return
    finally:
        stopped.cancel()


async def run(url: str, group: str) -> None:
    """Consumes until SIGTERM or SIGINT, and waits while Postgres is away."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncClient() as client:
        while not stop.is_set():
            try:
                connection = await connect(url)
                try:
                    await consume(client, connection, group, stop)
                finally:
                    connection.terminate()
            except _AWAY as error:
                print(f"Postgres is away, trying again: {error}", file=sys.stderr)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _PAUSE_S)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write every result of an app into Postgres with pgvector.")
    parser.add_argument("url", help="postgresql://user:password@host/database")
    parser.add_argument("--group", default="pgvector", help="consumer group (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments.url, arguments.group))
    except PodiumError as error:
        sys.exit(f"Podium does not serve this daemon: {error}")
    except asyncpg.PostgresError as error:
        sys.exit(f"Postgres refuses: {error}")


if __name__ == "__main__":
    main()
