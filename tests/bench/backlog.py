"""(f) What a backlog of a million batches costs: the scheduler's memory, and the latency of feeding and claiming.

Two ledgers on one Postgres, one next to empty, one with the backlog, which SQL has written: PENDING batches of jobs of
many apps in all priorities. Latencies: the scheduler's own statements, called in-process, cycle by cycle in turn.
Memory: a fresh scheduler process on each ledger in each round, leading, with its feeder at work for a worker that takes
batches and never finishes one; its peak since it was started, which nobody has to ask a collector for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prometheus_client import parser

from podium_scheduler.adapters.sql import holdings_ledger
from podium_scheduler.domain import fairness
from tests.bench import footprint, ledgers, report, rounds
from tests.support import fake_worker, stack

APPS = 10
JOB_BATCHES = 200
_BATCH_ITEMS = 250
_PAYLOAD_BYTES = 64
_PER_LEVEL = 4
_AGING = timedelta(minutes=10)
_CREDITS = 16
_SETTLE_S = 120.0
_LOOK_S = 0.1


@dataclass
class _Side:
    """One ledger, and the seconds of each step of each cycle, by round."""

    ledger: ledgers.Ledger
    backlog: bool
    fed: list[list[float]] = field(default_factory=list)
    claimed: list[list[float]] = field(default_factory=list)
    shares: fairness.Shares = field(default_factory=fairness.Shares)

    async def cycle(self) -> None:
        """Feeds and claims a group, in the order that is fair, then completes it outside the clock."""
        started = time.perf_counter()
        batch_ids = await self._feed()
        fed = time.perf_counter()
        leased = await self.ledger.claim(batch_ids)
        claimed = time.perf_counter()
        assert len(leased) == ledgers.GROUP
        self.fed[-1].append(fed - started)
        self.claimed[-1].append(claimed - fed)
        await self.ledger.complete(leased)

    async def _feed(self) -> list[int]:
        """What a round of the feeder asks of the ledger; ids of the batches that were fed."""
        batches = self.ledger.batches
        assert ledgers.WORKLOAD in await batches.waiting_workloads()
        await holdings_ledger.HoldingsLedger(self.ledger.pool).in_flight()
        candidates, weights = await batches.candidates(ledgers.WORKLOAD, _PER_LEVEL)
        order = fairness.plan(candidates, weights, self.shares, ledgers.GROUP, _AGING)
        queued = await batches.feed({UUID(job_id): count for job_id, count in Counter(order).items()})
        return [batch_id for batch_ids in queued.values() for batch_id in batch_ids]


async def measure(count: int, *, jobs: int, cycles: int) -> list[report.Line]:
    """Three lines, with `jobs` jobs of JOB_BATCHES batches each waiting."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with _sides(Path(name), jobs) as (empty, full):
            none, backlog = (_Side(side.ledger, backlog=side is full) for side in (empty, full))
            order = random.Random(1)
            for _ in range(count + 1):
                await _round([none, backlog], cycles, order)
            for side in (empty, full):
                await side.ledger.admit()
                await side.ledger.pool.close()
            memory = [await _memory(empty, full) for _ in range(count)]
    return [*_latencies(none, backlog, jobs * JOB_BATCHES), _memory_line(memory, jobs * JOB_BATCHES)]


async def _round(sides: list[_Side], cycles: int, order: random.Random) -> None:
    """As in `history`: both ledgers in a new order for each cycle."""
    for side in sides:
        side.fed.append([])
        side.claimed.append([])
    while len(sides[0].fed[-1]) < cycles:
        small = [(side.ledger, await side.ledger.admit()) for side in sides if not side.backlog]
        for _ in range(ledgers.JOB_BATCHES // ledgers.GROUP):
            for which in order.sample(range(len(sides)), len(sides)):
                await sides[which].cycle()
        for ledger, job_id in small:
            await ledger.release(job_id)


def _latencies(none: _Side, backlog: _Side, waiting: int) -> list[report.Line]:
    steps = (
        ("claim", f"claim {ledgers.GROUP} batches", none.claimed, backlog.claimed),
        ("feed", f"choose and feed {ledgers.GROUP} batches", none.fed, backlog.fed),
    )
    lines = []
    for name, what, theirs, ours in steps:
        extra = {}
        for label, side in (("p99 ms", ours), ("p99 ms without", theirs)):
            extra[label] = rounds.percentile([t for taken in side[1:] for t in taken], 0.99) * 1e3
        lines.append(
            report.line(
                f"{name}_backlog",
                *([rounds.percentile(taken, 0.5) * 1e3 for taken in side[1:]] for side in (ours, theirs)),
                what=f"{what} with {waiting:,} batches waiting (p50)",
                against=f"the same with {ledgers.JOB_BATCHES} batches or fewer waiting, cycle by cycle in turn (p50)",
                unit="ms",
                precision="no computation, durable commits",
                counts=f"{len(ours[-1])} cycles a round; {APPS} apps, all priorities",
                goals=(report.at_most(1.5),),
                extra=extra,
            )
        )
    return lines


def _memory_line(memory: list[tuple[int, int]], waiting: int) -> report.Line:
    """`memory`: of each round, peaks of the schedulers without and with the backlog, in bytes."""
    a_batch = [(full - empty) / waiting for empty, full in memory]
    return report.line(
        "scheduler_memory",
        [full / 1e6 for _, full in memory],
        [empty / 1e6 for empty, _ in memory],
        what=f"peak resident memory of a scheduler that leads and feeds, {waiting:,} batches waiting",
        against=f"the same with {ledgers.JOB_BATCHES} batches waiting",
        unit="MB",
        precision="no computation",
        counts="a fresh process on each side in each round",
        goals=(report.at_most(1_024, "bytes a batch"),),
        extra={"bytes a batch": rounds.spread(a_batch).median, "highest bytes a batch": max(a_batch)},
    )


@dataclass(frozen=True, slots=True)
class _Site:
    """A ledger, and how a scheduler is started on it."""

    ledger: ledgers.Ledger
    services: stack.Stack


@asynccontextmanager
async def _sides(folder: Path, jobs: int) -> AsyncIterator[tuple[_Site, _Site]]:
    """The ledgers, next to empty and with the backlog."""
    async with stack.servers(folder, as_deployed=True) as servers:
        empty = ledgers.Ledger(servers.postgres.url, _PAYLOAD_BYTES)
        for app in (ledgers.APP, *(f"app-{number}" for number in range(APPS))):
            await empty.jobs.put_app(app)
        full = ledgers.Ledger(await ledgers.copy(empty, "backlog"), _PAYLOAD_BYTES)
        await ledgers.sql(full.url, _backlog(jobs))
        sites = []
        for name, ledger in (("empty", empty), ("full", full)):
            await ledgers.sql(ledger.url, "VACUUM ANALYZE")
            await ledger.open()
            own = folder / name
            own.mkdir()
            settings = {"PODIUM_POSTGRES_URL": ledger.url, "PODIUM_REDIS_PREFIX": f"podium-{name}"}
            services = dataclasses.replace(
                servers, directory=own, services=[], environment=servers.environment | settings,
                numbers=itertools.count(),
            )  # fmt: skip
            sites.append(_Site(ledger, services))
        try:
            yield sites[0], sites[1]
        finally:
            for site in sites:
                await site.services.close()
                await site.ledger.pool.close()


def _backlog(jobs: int) -> str:
    """Writes all of it; may take a minute."""
    items = JOB_BATCHES * _BATCH_ITEMS
    return f"""
    WITH new AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_pending, feedable, create_time)
        SELECT gen_random_uuid(), 'app-' || n % {APPS}, gen_random_uuid(), decode(repeat('ab', 32), 'hex'),
            '{ledgers.WORKLOAD}', 1, 1 + n / {APPS} % 5, '', 'PENDING', {items}, {JOB_BATCHES}, {JOB_BATCHES}, true,
            now() - n * interval '10 ms'
        FROM generate_series(1, {jobs}) AS n
        RETURNING job_id, batch_count
    )
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding)
    SELECT job_id, n * {_BATCH_ITEMS}, {_BATCH_ITEMS}, convert_to(repeat('x', {_PAYLOAD_BYTES}), 'UTF8'), 1
    FROM new CROSS JOIN generate_series(0, batch_count - 1) AS n
"""


async def _memory(empty: _Site, full: _Site) -> tuple[int, int]:
    """Peaks of two fresh schedulers, side by side: neither touches the other's memory."""
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(_peak(site)) for site in (empty, full)]
    return found[0].result(), found[1].result()


async def _peak(site: _Site) -> int:
    """Bytes, once the scheduler has counted the backlog and fed all that there is room for."""
    scheduler = await site.services.start("scheduler")
    try:
        async with fake_worker.FakeWorker(scheduler.address).session() as worker:
            await worker.offer(_CREDITS, ledgers.WORKLOAD)
            await worker.assigned()
            await _settled(scheduler)
            peak = footprint.peak_bytes(scheduler.process.pid)
            await worker.goodbye()
    finally:
        await scheduler.stop()
    return peak


async def _settled(scheduler: stack.Service) -> None:
    """Waits until its metrics show a full work stream, which the leader reads after it has fed."""
    async with asyncio.timeout(_SETTLE_S):
        while True:
            if await asyncio.to_thread(_stream_batches, scheduler.metrics) >= fairness.target_depth(0):
                return
            await asyncio.sleep(_LOOK_S)


def _stream_batches(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_SETTLE_S) as reply:
        families = parser.text_string_to_metric_families(reply.read().decode())
    samples = (sample for family in families for sample in family.samples)
    wanted = ("podium_queue_stream_batches", ledgers.WORKLOAD)
    return next((s.value for s in samples if (s.name, s.labels.get("workload")) == wanted), 0.0)
