"""What batches went through, written down by the ledger itself: triggers note each change of a batch's state, and with
what it began if not with PENDING.

Promises: a move is there exactly if its transaction was committed, whoever made it, however the batch looks now, and
after the batch was archived. So what was computed again needs no look at the right moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg

from tests.support import stack

_WATCH = """
    CREATE TABLE moves (
        move_id bigserial PRIMARY KEY, batch_id bigint NOT NULL, became text NOT NULL, session_id uuid
    );
    CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO moves (batch_id, became, session_id)
        VALUES (NEW.batch_id, NEW.state, coalesce(NEW.session_id, OLD.session_id));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_move AFTER UPDATE ON batches FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION note_move();
    CREATE TRIGGER note_birth AFTER INSERT ON batches FOR EACH ROW
    WHEN (NEW.state <> 'PENDING') EXECUTE FUNCTION note_move();
"""
# Moves of one batch are in the order of their numbers: each locks the batch's row.
_CLAIMED_AGAIN = """
    SELECT batch_id, count(*) - 1 AS times FROM moves WHERE became = 'LEASED' GROUP BY batch_id HAVING count(*) > 1
"""
_IN_FLIGHT = """
    WITH gone AS (
        SELECT session_id FROM sessions WHERE replica_id = ANY($1::text[]) OR hostname = ANY($1::text[])
    ), steps AS (
        SELECT batch_id, became, session_id,
               lead(became) OVER of_batch AS next, lead(session_id) OVER of_batch AS next_session_id
        FROM moves WINDOW of_batch AS (PARTITION BY batch_id ORDER BY move_id)
    )
    SELECT DISTINCT batch_id FROM steps
    WHERE became = 'LEASED' AND session_id IN (SELECT session_id FROM gone)
      AND NOT coalesce(next = 'COMPLETED' AND next_session_id IN (SELECT session_id FROM gone), false)
"""
_BUSIEST = """
    SELECT CASE $1 WHEN 'scheduler' THEN s.replica_id ELSE s.hostname END AS name
    FROM sessions s JOIN batches b USING (session_id) WHERE s.state = 'OPEN' AND b.state = 'LEASED'
    GROUP BY 1 ORDER BY count(*) DESC LIMIT 1
"""
_IN_STATES = "SELECT batch_id FROM batches WHERE state = ANY($1::text[])"


@asynccontextmanager
async def ledger(running: stack.Stack) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the stack's ledger."""
    connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


async def watch(running: stack.Stack) -> None:
    """Notes every move from now on."""
    async with ledger(running) as connection:
        await connection.execute(_WATCH)


async def claimed_again(running: stack.Stack) -> dict[int, int]:
    """Batches that were given to workers more than once, and how many times more."""
    async with ledger(running) as connection:
        return {r["batch_id"]: r["times"] for r in await connection.fetch(_CLAIMED_AGAIN)}


async def in_flight(running: stack.Stack, gone: Iterable[str]) -> set[int]:
    """What sessions of these replicas or workers held when they ended: claimed in one of them, completed in none."""
    async with ledger(running) as connection:
        return {r["batch_id"] for r in await connection.fetch(_IN_FLIGHT, list(gone))}


async def in_states(running: stack.Stack, *states: str) -> set[int]:
    """Batches that are in one of these states now."""
    async with ledger(running) as connection:
        return {r["batch_id"] for r in await connection.fetch(_IN_STATES, list(states))}


async def busiest(running: stack.Stack, kind: str) -> str:
    """The replica ("scheduler") or worker whose sessions hold the most now. AssertionError when none does."""
    async with ledger(running) as connection:
        name = await connection.fetchval(_BUSIEST, kind)
    assert isinstance(name, str), "nothing is in flight"
    return name
