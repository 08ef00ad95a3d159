"""What a claim and a completion cost when a million batches have finished before, kept hot or archived.

Three ledgers on one Postgres: one without history, one whose finished batches are still in the hot table (as it was
before they were archived), and a copy of that which the archive has gone through. The statements are the scheduler's
own, called in-process: no gRPC, no Redis, no model.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from podium_embedded import EmbeddedPostgres
from podium_scheduler.adapters.sql import migrate
from tests.bench import ledgers, report, rounds

_PAGE, _MAX_BATCHES, _MAX_BYTES = 50, 1_000, 32 << 20


@dataclass
class Ledger(ledgers.Ledger):
    """One ledger, and what was measured on it: seconds of each claim with its completion, by round."""

    taken: list[list[float]] = field(default_factory=list)

    async def fed(self) -> tuple[UUID, list[int]]:
        """A new job, and its batches that wait to be claimed."""
        job_id = await self.admit()
        return job_id, (await self.batches.feed({job_id: ledgers.JOB_BATCHES}))[job_id]

    async def cycle(self, batch_ids: list[int]) -> None:
        """Claims and completes batches; takes the time."""
        started = time.perf_counter()
        completed = await self.complete(await self.claim(batch_ids))
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


async def measure(count: int, *, jobs: int, batches: int, cycles: int) -> list[report.Line]:
    """Both comparisons, on `jobs` finished jobs of `batches` batches each: `count` rounds of about `cycles` cycles."""
    async with _ledgers(jobs, batches) as (sides, archiving_s):
        order = random.Random(1)
        for _ in range(count + 1):
            await _round(list(sides.values()), cycles, order)
        sizes = {name: await ledger.megabytes() for name, ledger in sides.items()}
    rate = {"batches archived a second": jobs * batches / archiving_s}
    lines = []
    for name, how, extra in (("hot", "still in the hot table", {}), ("archived", "archived", rate)):
        ours, theirs = sides[name], sides["none"]
        lines.append(
            report.line(
                f"claim_history_{name}",
                ours.percentiles(0.5),
                theirs.percentiles(0.5),
                what=f"claim and complete {ledgers.GROUP} batches after {jobs * batches:,} finished ones, {how} (p50)",
                against="the same on a ledger without history, cycle by cycle in turn (p50)",
                unit="ms",
                precision="no computation, durable commits",
                counts=f"{len(ours.taken[-1])} cycles a round; {jobs:,} finished jobs",
                goals=(report.at_most(1.1),),
                extra={**_pooled(ours, theirs), **sizes[name], **extra},
            )
        )
    return lines


async def _round(sides: Sequence[Ledger], cycles: int, order: random.Random) -> None:
    """All ledgers in a new order for each cycle: they share every noise, and none always follows the same other."""
    for ledger in sides:
        ledger.taken.append([])
    while len(sides[0].taken[-1]) < cycles:
        fed = [await ledger.fed() for ledger in sides]
        for start in range(0, ledgers.JOB_BATCHES, ledgers.GROUP):
            for which in order.sample(range(len(sides)), len(sides)):
                await sides[which].cycle(fed[which][1][start : start + ledgers.GROUP])
        for ledger, (job_id, _) in zip(sides, fed, strict=True):
            await ledger.release(job_id)


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
            await none.jobs.put_app(ledgers.APP)
            hot = Ledger(await ledgers.copy(none, "hot"))
            await ledgers.sql(hot.url, _finished(jobs, batches))
            archived = Ledger(await ledgers.copy(hot, "archived"))
            archiving_s = await archived.archive_all()
            found = {"none": none, "hot": hot, "archived": archived}
            for ledger in found.values():
                stack.push_async_callback(ledger.pool.close)
                await ledgers.sql(ledger.url, "VACUUM ANALYZE")
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
