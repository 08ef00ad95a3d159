"""(f) What a backlog of a million batches costs: the scheduler's memory, and the latency of feeding and claiming.

Two ledgers on one Postgres, one next to empty, one with the backlog, which SQL has written: PENDING batches of jobs of
many apps in all priorities. Latencies: whole rounds of the leader's own feeder, and the scheduler's claim, called
in-process on a work stream that is always empty, cycle by cycle in turn. Once nobody is idle, and what is fed goes to
the stream; once as many workers are as batches are due, and they get them at once. Memory: a fresh scheduler process on
each ledger in each round, leading, with its feeder at work for a worker that takes batches and never finishes one; its
peak since it was started, which nobody has to ask a collector for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import tempfile
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prometheus_client import parser

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, ids
from podium_scheduler.adapters.sql import feed_ledger
from podium_scheduler.app import assigner, feeder, handover, records, straight, wakers, worker_sessions
from podium_scheduler.domain import fairness, room
from tests.bench import footprint, ledgers, report, rounds
from tests.support import fake_worker, stack

APPS = 10
_SHARING = ("app-0", "app-1")
JOB_BATCHES = 200
_BATCH_ITEMS = 250
_PAYLOAD_BYTES = 64
_AGING = timedelta(minutes=10)
_CREDITS = 16
_SETTLE_S = 120.0
_LOOK_S = 0.1


class _Surroundings:
    """Of a feeder: Redis, whose work streams are always empty, other replicas, which nobody wakes, and a leadership."""

    leads = True

    def __init__(self) -> None:
        self.pushed: list[int] = []

    async def depths_and_memory(self, workloads: Sequence[str]) -> tuple[dict[str, int], room.Memory]:
        return dict.fromkeys(workloads, 0), room.Memory(0, 0)

    async def push(self, workload: str, batch_ids: Sequence[int]) -> None:
        self.pushed += batch_ids

    async def replicas(self, kind: str, **fields: object) -> None:
        pass

    async def job_changed(self, changes: Sequence[tuple[UUID, str]]) -> None:
        pass


class _Hands(assigner.Assigner):
    """Notes what is handed out, and leaves the sessions idle."""

    taken: Sequence[records.Leased] = ()

    async def assign(self, leased: Sequence[records.Leased]) -> None:
        self.taken = leased


class _Feeder:
    """The leader's own on a ledger, for these sessions, which stay idle."""

    def __init__(self, ledger: ledgers.Ledger, sessions: Sequence[worker_sessions.Session] = ()) -> None:
        registry = worker_sessions.SessionRegistry()
        for session in sessions:
            registry.add(session)
        self._around = _Surroundings()
        self._hands = _Hands(registry)
        around: Any = self._around
        short = handover.Handover(registry, ledger.batches, self._hands, around, ids.SystemIds(), clock.SystemClock())
        feeds = feed_ledger.FeedLedger(ledger.pool)
        wake = wakers.Wakers(around, around)
        direct = straight.Straight(short, wake, {})
        self._feeder = feeder.Feeder(feeds, ledger.batches, around, wake, short, direct, _AGING, {})

    async def queued(self) -> list[int]:
        """A round, for nobody who is idle: ids of the batches that went to the work stream."""
        self._around.pushed.clear()
        await self._feeder.round()
        return list(self._around.pushed)

    async def leased(self) -> Sequence[records.Leased]:
        """A round: the batches that went to the sessions."""
        self._hands.taken = ()
        await self._feeder.round()
        return self._hands.taken


async def _idle(ledger: ledgers.Ledger) -> list[worker_sessions.Session]:
    """As many as a round feeds."""
    sessions = [worker_sessions.Session(uuid.uuid4(), uuid.uuid4()) for _ in range(ledgers.GROUP)]
    offer = worker_pb2.WorkloadStatus(workload=ledgers.WORKLOAD, credits=1)
    for session in sessions:
        await ledger.open_session(session.session_id)
        session.take_status(worker_pb2.Status(total_credits=1, workloads=[offer]), {ledgers.WORKLOAD})
    return sessions


@dataclass
class _Side:
    """One ledger, and the seconds of each step of each cycle, by round."""

    ledger: ledgers.Ledger
    backlog: bool
    queueing: _Feeder
    handing: _Feeder
    """With idle workers."""
    fed: list[list[float]] = field(default_factory=list)
    claimed: list[list[float]] = field(default_factory=list)
    handed: list[list[float]] = field(default_factory=list)

    @classmethod
    async def on(cls, ledger: ledgers.Ledger, *, backlog: bool) -> _Side:
        """On an open ledger."""
        return cls(ledger, backlog, _Feeder(ledger), _Feeder(ledger, await _idle(ledger)))

    async def cycle(self) -> None:
        """Feeds and claims a group, in the order that is fair, then hands over another; completes both outside the
        clock."""
        started = time.perf_counter()
        batch_ids = await self.queueing.queued()
        fed = time.perf_counter()
        claimed = await self.ledger.claim(batch_ids)
        self.claimed[-1].append(time.perf_counter() - fed)
        self.fed[-1].append(fed - started)
        await self._complete(claimed)
        started = time.perf_counter()
        handed = await self.handing.leased()
        self.handed[-1].append(time.perf_counter() - started)
        await self._complete(handed)

    async def _complete(self, leased: Sequence[records.Leased]) -> None:
        assert len(await self.ledger.complete(leased)) == ledgers.GROUP


async def measure(count: int, *, jobs: int, cycles: int) -> list[report.Line]:
    """Four lines, with `jobs` jobs of JOB_BATCHES batches each waiting."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with _sides(Path(name), jobs) as (empty, full):
            none, backlog = [await _Side.on(site.ledger, backlog=site is full) for site in (empty, full)]
            order = random.Random(1)
            for _ in range(count + 1):
                await _round([none, backlog], cycles, order)
            for site in (empty, full):
                await site.ledger.admit()
                await site.ledger.pool.close()
            memory = [await _memory(empty, full) for _ in range(count)]
    return [*_latencies(none, backlog, jobs * JOB_BATCHES), _memory_line(memory, jobs * JOB_BATCHES)]


async def _round(sides: list[_Side], cycles: int, order: random.Random) -> None:
    """As in `history`: both ledgers in a new order for each cycle."""
    for side in sides:
        for taken in (side.fed, side.claimed, side.handed):
            taken.append([])
    while len(sides[0].fed[-1]) < cycles:
        # Two jobs that share, for nobody is asked whose turn it is where one is alone.
        small = [
            (side.ledger, app, await side.ledger.admit(app, ledgers.JOB_BATCHES // 2))
            for side in sides
            if not side.backlog
            for app in _SHARING
        ]
        for _ in range(ledgers.JOB_BATCHES // (2 * ledgers.GROUP)):
            for which in order.sample(range(len(sides)), len(sides)):
                await sides[which].cycle()
        for ledger, app, job_id in small:
            await ledger.release(job_id, app, ledgers.JOB_BATCHES // 2)


def _latencies(none: _Side, backlog: _Side, waiting: int) -> list[report.Line]:
    steps = (
        ("claim", f"claim {ledgers.GROUP} batches", none.claimed, backlog.claimed),
        ("feed", f"look, choose and feed {ledgers.GROUP} batches", none.fed, backlog.fed),
        ("hand_over", f"look, choose and lease {ledgers.GROUP} batches to idle workers", none.handed, backlog.handed),
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
                against=f"the same with {ledgers.JOB_BATCHES} batches or fewer of two jobs waiting, "
                "cycle by cycle in turn (p50)",
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
