"""(f) What a claim and a completion cost when a million batches have finished before, kept hot or archived.

Three ledgers on one Postgres: one without history, one whose finished batches are still in the hot table (as it was
before they were archived), and a copy of that which the archive has gone through. The statements are the scheduler's
own, called in-process: no gRPC, no Redis, no model.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
from sqlalchemy import text

from podium_embedded import EmbeddedPostgres
from podium_scheduler.adapters.sql import archive_ledger, batch_ledger, database, job_ledger, migrate, session_ledger
from podium_scheduler.app import records
from tests.bench import report, rounds

_GROUP = 8
_JOB_BATCHES = 64
_WEEK = timedelta(days=7)
_PAYLOAD = b"x" * 4_096
_PAGE, _MAX_BATCHES, _MAX_BYTES = 50, 1_000, 32 << 20

_BYTES = text("SELECT pg_total_relation_size(CAST(:name AS regclass)), pg_indexes_size(CAST(:name AS regclass))")


@dataclass
class Ledger:
    """One ledger, and what was measured on it: seconds of each claim with its completion, by round."""

    url: str
    pool: database.Database = field(init=False)
    taken: list[list[float]] = field(default_factory=list)
    session_id: UUID = field(default_factory=uuid.uuid4)

    def __post_init__(self) -> None:
        self.pool = database.Database(self.url, pool_size=2)
        self.jobs = job_ledger.JobLedger(self.pool)
        self.batches = batch_ledger.BatchLedger(self.pool, _WEEK)
        self.archive = archive_ledger.ArchiveLedger(self.pool)

    async def open(self) -> None:
        """Opens a session to claim for."""
        session = records.NewSession(self.session_id, uuid.uuid4(), "bench", "bench", "0", "", b"")
        await session_ledger.SessionLedger(self.pool, _WEEK).open(session, [])

    async def fed(self) -> tuple[UUID, list[int]]:
        """A new job, and its batches that wait to be claimed."""
        batches = tuple(records.NewBatch(n, 1, _PAYLOAD, 1) for n in range(_JOB_BATCHES))
        new = records.NewJob("default", uuid.uuid4(), b"d", "hash-384", 1, 3, {}, b"", None, "", batches)
        job, _ = await self.jobs.admit(uuid.uuid4(), new)
        return job.job_id, (await self.batches.feed({job.job_id: _JOB_BATCHES}))[job.job_id]

    async def cycle(self, batch_ids: list[int]) -> None:
        """Claims and completes batches; takes the time."""
        claims = [records.Claim(batch_id, uuid.uuid4().bytes, self.session_id) for batch_id in batch_ids]
        started = time.perf_counter()
        leased = await self.batches.claim(claims)
        done = [records.Completion(b.batch_id, b.lease_token, b.job_id, b.first_item, 1, 0, 0) for b in leased]
        completed = await self.batches.complete(done)
        self.taken[-1].append(time.perf_counter() - started)
        assert len(completed) == len(batch_ids)

    async def archive_all(self) -> float:
        """Archives all that is due, as the janitor does but without its rests; seconds."""
        started = time.perf_counter()
        while due := await self.archive.due(_PAGE):
            await self.archive.archive(due, max_batches=_MAX_BATCHES, max_payload_bytes=_MAX_BYTES)
        return time.perf_counter() - started

    def percentiles(self, share: float) -> list[float]:
        """In milliseconds, of each round but the first, which warms up."""
        return [rounds.percentile(taken, share) * 1e3 for taken in self.taken[1:]]

    async def megabytes(self) -> dict[str, float]:
        """Sizes of the tables with their indexes, and of the indexes alone."""
        found: dict[str, float] = {}
        async with self.pool.transaction() as connection:
            for name in ("batches", "jobs"):
                whole, indexes = (await connection.execute(_BYTES, {"name": name})).one()
                found |= {f"{name} MB": whole / 1e6, f"indexes of {name} MB": indexes / 1e6}
        return found


async def measure(count: int, *, jobs: int, batches: int, cycles: int) -> list[report.Line]:
    """Both comparisons, on `jobs` finished jobs of `batches` batches each: `count` rounds of about `cycles` cycles."""
    async with _ledgers(jobs, batches) as (ledgers, archiving_s):
        order = random.Random(1)
        for _ in range(count + 1):
            await _round(list(ledgers.values()), cycles, order)
        sizes = {name: await ledger.megabytes() for name, ledger in ledgers.items()}
    rate = {"batches archived a second": jobs * batches / archiving_s}
    lines = []
    for name, how, extra in (("hot", "still in the hot table", {}), ("archived", "archived", rate)):
        ours, theirs = ledgers[name], ledgers["none"]
        lines.append(
            report.line(
                f"claim_history_{name}",
                ours.percentiles(0.5),
                theirs.percentiles(0.5),
                what=f"claim and complete {_GROUP} batches after {jobs * batches:,} finished ones, {how} (p50)",
                against="the same on a ledger without history, cycle by cycle in turn (p50)",
                unit="ms",
                precision="no computation, durable commits",
                counts=f"{len(ours.taken[-1])} cycles a round; {jobs:,} finished jobs",
                target=1.1,
                extra={**_pooled(ours, theirs), **sizes[name], **extra},
            )
        )
    return lines


async def _round(ledgers: Sequence[Ledger], cycles: int, order: random.Random) -> None:
    """All ledgers in a new order for each cycle: they share every noise, and none always follows the same other."""
    for ledger in ledgers:
        ledger.taken.append([])
    while len(ledgers[0].taken[-1]) < cycles:
        fed = [await ledger.fed() for ledger in ledgers]
        for start in range(0, _JOB_BATCHES, _GROUP):
            for which in order.sample(range(len(ledgers)), len(ledgers)):
                await ledgers[which].cycle(fed[which][1][start : start + _GROUP])
        for ledger, (job_id, _) in zip(ledgers, fed, strict=True):
            await ledger.jobs.release("default", job_id, _JOB_BATCHES, _JOB_BATCHES)


def _pooled(ledger: Ledger, without: Ledger) -> dict[str, float]:
    """Over all rounds together: one round has too few cycles for a p99."""
    found: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        ours, theirs = (
            rounds.percentile([t for taken in side.taken[1:] for t in taken], share) for side in (ledger, without)
        )
        found |= {f"{name} ms": ours * 1e3, f"{name} ms without": theirs * 1e3, f"{name} share": ours / theirs}
    return found


@asynccontextmanager
async def _ledgers(jobs: int, batches: int) -> AsyncIterator[tuple[dict[str, Ledger], float]]:
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with EmbeddedPostgres(Path(name)) as postgres, AsyncExitStack() as stack:
            await migrate.upgrade(postgres.url)
            none = Ledger(postgres.url)
            await none.jobs.put_app("default")
            hot = await _copy(none, "hot")
            await _sql(hot.url, _finished(jobs, batches))
            archived = await _copy(hot, "archived")
            archiving_s = await archived.archive_all()
            found = {"none": none, "hot": hot, "archived": archived}
            for ledger in found.values():
                stack.push_async_callback(ledger.pool.close)
                await _sql(ledger.url, "VACUUM ANALYZE")
                await ledger.open()
            yield found, archiving_s


def _finished(jobs: int, batches: int) -> str:
    """Writes the whole history; may take minutes."""
    return f"""
    WITH new AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_finished, items_succeeded, items_released, feedable, create_time,
            start_time, finish_time, expire_time)
        SELECT gen_random_uuid(), 'default', gen_random_uuid(), decode(repeat('ab', 32), 'hex'), 'hash-384', 1, 3, '',
            'COMPLETED', items, batches, batches, items, items, false, at, at, at, at + interval '7 days'
        FROM (SELECT {batches} AS batches, {batches} * 256 AS items,
                     now() - n * interval '1 s' AS at
              FROM generate_series(1, {jobs}) AS n) AS history
        RETURNING job_id, batch_count, finish_time
    )
    INSERT INTO batches (job_id, first_item, item_count, state, attempt, queue_time, lease_time, finish_time,
                         payload_encoding, items_succeeded)
    SELECT job_id, n * 256, 256, 'DELIVERED', 1, finish_time, finish_time, finish_time, 1, 256
    FROM new CROSS JOIN generate_series(0, batch_count - 1) AS n
"""


async def _copy(source: Ledger, name: str) -> Ledger:
    await source.pool.close()
    server, original = source.url.rsplit("/", 1)
    await _sql(f"{server}/postgres", f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
    return Ledger(f"{server}/{name}")


async def _sql(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), command_timeout=600)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
