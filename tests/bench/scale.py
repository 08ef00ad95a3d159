"""`python -m tests.bench.scale`: what the control plane costs with 1,000 workers, 1,000,000 batches and 100 apps.

A real scheduler on embedded Postgres and Redis; workers without models (see fleet.py); a backlog written by SQL. At the
same pace with one worker and with many, with next to no backlog and with all of it: CPU seconds of the scheduler and of
Postgres for each batch, which other load on the machine changes little, and how soon a worker that has finished one has
the next, which it does. Prints a table and writes `bench-out/scale.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from tests.bench import children, fleet, report, rounds, spent
from tests.support import stack

APPS = 100
JOB_BATCHES = 500
_FLEET_PROCESSES = 2
_SETTLED_S = 6.0

_APPS = f"INSERT INTO apps (app_id, weight) SELECT 'app-' || n, 1 + n % 4 FROM generate_series(0, {APPS - 1}) AS n"
_BACKLOG = f"""
    WITH new AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_pending, feedable, create_time)
        SELECT gen_random_uuid(), 'app-' || n % {APPS}, gen_random_uuid(), decode(repeat('ab', 32), 'hex'),
            '{fleet.WORKLOAD}', 1, 3, '', 'PENDING', {JOB_BATCHES}, {JOB_BATCHES}, {JOB_BATCHES}, true,
            now() + n * interval '1 ms' - interval '1 minute'
        FROM generate_series(0, $1::int - 1) AS n RETURNING job_id
    )
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding)
    SELECT job_id, n, 1, decode(repeat('ab', 200), 'hex'), 1
    FROM new CROSS JOIN generate_series(0, {JOB_BATCHES - 1}) AS n
"""
_OPEN_SESSIONS = "SELECT count(*) FROM sessions WHERE state <> 'ENDED'"
_PENDING = "SELECT coalesce(sum(batches_pending), 0) FROM jobs WHERE feedable"
_SERVED = """
    SELECT a.app_id, a.weight, count(*) AS batches FROM batches b JOIN jobs j USING (job_id) JOIN apps a USING (app_id)
    WHERE b.lease_time > $1 GROUP BY a.app_id, a.weight
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet that finishes `pace` batches a second when it never waits."""

    workers: int
    credits: int
    pace: float

    @property
    def hold_s(self) -> float:
        """How long each batch is held."""
        return self.workers * self.credits / self.pace


@dataclass(frozen=True, slots=True)
class Found:
    """What one case cost. Times of a batch in milliseconds of CPU, all else as it says."""

    workers: int
    backlog: int
    batches_per_s: float
    scheduler_ms: float
    postgres_ms: float
    redis_ms: float
    scheduler_core: float
    """Share of a core that the scheduler took, 0 to 1 and a little more."""
    turn_ms_p50: float
    """From a worker's Done to its next Assign."""
    turn_ms_p99: float
    resident_mb: float
    unfairness: float
    """See `unfairness`."""
    streams_ended: int
    """Streams that were broken meanwhile, as by a machine too busy to answer; such a run says little."""


class Bench:
    """A stack without gateway and workers, and its ledger."""

    def __init__(self, running: stack.Stack, ledger: asyncpg.Connection) -> None:
        self._running = running
        self._ledger = ledger
        self._meter = spent.Meter(running)

    @property
    def resident_mb(self) -> float:
        """Memory of the scheduler."""
        return spent.resident_bytes(self._running.scheduler.process.pid) / 1e6

    async def load(self, batches: int) -> None:
        """Brings the backlog to at least so many batches; statistics as autovacuum would take them."""
        missing = batches - await self._ledger.fetchval(_PENDING)
        if missing > 0:
            await self._ledger.execute(_BACKLOG, -(-missing // JOB_BATCHES), timeout=1_200)
            await self._ledger.execute("VACUUM (ANALYZE) batches, jobs", timeout=1_200)

    async def idle(self, workers: int, seconds: float) -> tuple[spent.Span, float]:
        """So many workers that have nothing to do; and the scheduler's resident MB."""
        async with self._fleet(Case(workers, 1, workers)):
            await asyncio.sleep(_SETTLED_S)
            first = await self._meter.read()
            await asyncio.sleep(seconds)
            return spent.Span(first, await self._meter.read()), self.resident_mb

    async def case(self, case: Case, seconds: float) -> Found:
        """One fleet on the backlog that there is."""
        backlog = await self._ledger.fetchval(_PENDING)
        async with self._fleet(case) as processes:
            await asyncio.sleep(_SETTLED_S + 2 * case.hold_s)
            await _tally(processes)
            since = await self._ledger.fetchval("SELECT now()")
            first = await self._meter.read()
            await asyncio.sleep(seconds)
            span, (batches, turns, ended) = spent.Span(first, await self._meter.read()), await _tally(processes)
            memory = self.resident_mb
        served = await self._ledger.fetch(_SERVED, since, timeout=600)
        cpu_ms = {name: span.cpu_s(name) * 1e3 / max(batches, 1) for name in ("scheduler", "postgres", "redis")}
        return Found(
            workers=case.workers,
            backlog=backlog,
            batches_per_s=batches / span.seconds,
            scheduler_ms=cpu_ms["scheduler"],
            postgres_ms=cpu_ms["postgres"],
            redis_ms=cpu_ms["redis"],
            scheduler_core=span.core_shares()["scheduler"],
            turn_ms_p50=rounds.percentile(turns, 0.5) * 1e3 if turns else 0.0,
            turn_ms_p99=rounds.percentile(turns, 0.99) * 1e3 if turns else 0.0,
            resident_mb=memory,
            unfairness=unfairness({row["app_id"]: (row["weight"], row["batches"]) for row in served}),
            streams_ended=ended,
        )

    @contextlib.asynccontextmanager
    async def _fleet(self, case: Case) -> AsyncIterator[list[children.Child]]:
        count = min(_FLEET_PROCESSES, case.workers)
        sizes = [case.workers // count + (n < case.workers % count) for n in range(count)]
        address = self._running.scheduler.address
        async with contextlib.AsyncExitStack() as stacked:
            processes = [
                await stacked.enter_async_context(
                    children.started("tests.bench.fleet", address, str(size), str(case.credits), str(case.hold_s))
                )
                for size in sizes
            ]
            for process in processes:
                await process.answer()
            yield processes
        # Their sessions are over before anybody else is measured.
        async with asyncio.timeout(60):
            while await self._ledger.fetchval(_OPEN_SESSIONS):  # noqa: ASYNC110 - by other processes
                await asyncio.sleep(0.2)


async def _tally(processes: list[children.Child]) -> tuple[int, list[float], int]:
    found = [await process.ask() for process in processes]
    turns = [turn for one in found for turn in one["turns_s"]]
    return sum(one["batches"] for one in found), turns, sum(one["streams_ended"] for one in found)


def unfairness(served: dict[str, tuple[int, int]]) -> float:
    """Of apps with (weight, batches), the mean difference from the weighted share, as a part of it; 0 is fair."""
    weights, batches = sum(w for w, _ in served.values()), sum(n for _, n in served.values())
    if not batches:
        return 0.0
    return sum(abs(n / batches * weights / w - 1) for w, n in served.values()) / len(served)


async def measure(
    workers: int, backlog: int, pace: float, seconds: float, lease_ttl_s: float = 10.0
) -> tuple[list[Found], dict[str, float]]:
    """One worker and many, with little backlog and with much; then many that are idle, and what a session takes."""
    few = Case(1, max(1, round(pace / 4)), pace)
    many = Case(workers, 1, pace)
    small = round(pace * (seconds + _SETTLED_S + 2 * many.hold_s) * 2)
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with stack.servers(Path(name), as_deployed=True) as running:
            await running.start("scheduler", lease_ttl_s=str(lease_ttl_s))
            ledger = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
            try:
                await ledger.execute(_APPS)
                bench = Bench(running, ledger)
                none, empty_mb = await bench.idle(1, seconds)
                idle, full_mb = await bench.idle(workers, seconds)
                found = []
                for size in (small, backlog):
                    for case in (few, many):
                        await bench.load(size)
                        found.append(await bench.case(case, seconds))
            finally:
                await ledger.close()
    rest = {
        "idle scheduler, 1 worker: share of a core": none.core_shares()["scheduler"],
        f"idle scheduler, {workers} workers: share of a core": idle.core_shares()["scheduler"],
        f"idle postgres, {workers} workers: share of a core": idle.core_shares()["postgres"],
        "KB of scheduler memory per session": (full_mb - empty_mb) * 1e3 / max(1, workers - 1),
    }
    return found, rest


def show(found: list[Found], rest: dict[str, float], console: Console) -> None:
    """Prints the table."""
    table = Table(title=f"The control plane on {report.cores()} cores, {APPS} apps")
    for heading in (field.name for field in dataclasses.fields(Found)):
        table.add_column(heading.replace("_", " "), justify="right")
    for one in found:
        table.add_row(
            *(f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" for value in dataclasses.astuple(one))
        )
    console.print(table)
    for what, value in rest.items():
        console.print(f"{what}: {value:,.3g}", highlight=False)


def main() -> None:
    """Runs, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="batches that wait (default 1,000,000)")
    parser.add_argument("--pace", type=float, default=200.0, help="batches a second that the workers could do")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default 20)")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of scale.json")
    parser.add_argument(
        "--lease-ttl",
        type=float,
        default=10.0,
        help="seconds (default 10, as in production); more where other load keeps workers from being heard in time. "
        "A quarter of it is the longest time between two heartbeats of one of many workers",
    )
    asked = parser.parse_args()
    found, rest = asyncio.run(measure(asked.workers, asked.backlog, asked.pace, asked.seconds, asked.lease_ttl))
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "scale.json"
    said = {
        "machine": report.machine(),
        "lease_ttl_s": asked.lease_ttl,
        "cases": [dataclasses.asdict(one) for one in found],
        **rest,
    }
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    show(found, rest, Console(width=max(150, Console().width)))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
