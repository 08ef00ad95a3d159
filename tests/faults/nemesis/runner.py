"""One seed from the start of the cluster to the verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.nemesis import audit, consumption, ledger, logs, verdict
from tests.faults.nemesis.clients import CLIENTS, Client
from tests.faults.nemesis.cluster import Cluster, running
from tests.faults.nemesis.consumers import PRODUCERS, Producer, consuming
from tests.faults.nemesis.history import History
from tests.faults.nemesis.injure import Injuries, heal
from tests.faults.nemesis.plan import Fault, plan

_CLIENTS_END_S = 240.0
_EVENTS: dict[str, str | None] = {
    "lost_results_recomputed": "batches",
    "leases_recovered": "batches",
    "stale_outcome_dropped": None,
    "leadership_taken": None,
}


@dataclass(slots=True)
class Report:
    """What became of a seed."""

    seed: int
    seconds: float
    wall_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    items: int = 0
    deliveries: int = 0
    """What the consumers of the group got, the job's ends and what came again included."""
    recomputed_batches: int = 0
    """Batches computed again: their result was lost with Redis, or their lease with its worker."""
    stale_outcomes: int = 0
    leaders: int = 0
    looks: int = 0
    """How often the ledger's invariants were looked at in the middle of it."""
    violations: list[str] = field(default_factory=list)
    directory: str = ""
    """Where the logs lie; kept only when it failed."""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.violations

    @property
    def replay(self) -> str:
        """The command that runs the same plan again."""
        return f"python -m tests.faults.nemesis --seed {self.seed} --seconds {self.seconds:g}"

    def to_json(self) -> dict[str, Any]:
        """For --report and between processes."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"faults": dict(sorted(self.faults.items())), "passed": self.passed, "replay": self.replay}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """The inverse of to_json."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"faults": Counter(values["faults"])})


async def run_seed(seed: int, seconds: float) -> Report:
    """Runs the plan of a seed against a cluster of its own."""
    directory = Path(tempfile.mkdtemp(prefix=f"podium-nemesis-{seed}-"))
    report = Report(seed, seconds, directory=str(directory))
    started = time.monotonic()
    faults = plan(seed, seconds)
    async with running(directory) as cluster:
        history, consumed, injuries = History(), consumption.Consumption(), Injuries(cluster)
        watchman = ledger.Watchman(cluster)
        watching = asyncio.create_task(watchman.run())
        try:
            async with consuming(cluster, seed, consumed) as crowd:
                report.violations += await _rage(cluster, injuries, (history, consumed), faults, seed, seconds)
                crowd.finish()
                restless = await audit.become_quiet(cluster)
                report.violations += restless + await audit.consumed(cluster, consumed)
            report.violations += await audit.nothing_more(cluster, crowd)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            _write_log(directory, injuries, faults)
        report.violations += watchman.found or ([] if watchman.looks else ["the ledger was never looked at in between"])
        if not restless:
            report.violations += await audit.keys_of_released(cluster)
        report.violations += await _last_look(cluster, history, consumed, injuries)
        _fill(report, cluster, history, consumed, injuries, watchman)
    report.wall_s = round(time.monotonic() - started, 1)
    if report.passed:
        shutil.rmtree(directory, ignore_errors=True)
        report.directory = ""
    return report


async def _rage(
    cluster: Cluster,
    injuries: Injuries,
    seen: tuple[History, consumption.Consumption],
    faults: Sequence[Fault],
    seed: int,
    seconds: float,
) -> list[str]:
    """Load and faults together; then no faults, until every client has finished what it began."""
    stop = asyncio.Event()
    crowd = [Client(n, seed, cluster.gateways, seen[0].submissions) for n in range(CLIENTS)]
    crowd += [Producer(n, seed, cluster, seen[1]) for n in range(PRODUCERS)]
    tasks = [asyncio.create_task(client.run(stop)) for client in crowd]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(injuries.carry_out(faults))
            group.create_task(asyncio.sleep(seconds))
        await heal(cluster)
        stop.set()
        _, late = await asyncio.wait(tasks, timeout=_CLIENTS_END_S)
        found = [f"{crowd[n].name} is stuck in {crowd[n].doing}" for n, task in enumerate(tasks) if task in late]
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return found + [f"client: {e!r}" for e in results if isinstance(e, Exception)]


async def _last_look(
    cluster: Cluster, history: History, consumed: consumption.Consumption, injuries: Injuries
) -> list[str]:
    found = await audit.last_reads(cluster, history)
    found += await audit.leftovers(cluster)
    async with cluster.ledger() as connection:
        found += await ledger.violations(connection, quiet=True)
        rows = await ledger.jobs(connection)
    kills = sum(n for label, n in injuries.counted.items() if "executor" in label or "worker" in label)
    evidence = verdict.Evidence(executor_kills=kills)
    theirs = {s.request_id for s in consumed.submissions}
    found += verdict.violations(history, [r for r in rows if r.request_id not in theirs], evidence)
    found += consumption.violations(consumed, rows, evidence)
    found += await audit.health(cluster)
    found += await audit.metrics(cluster)
    await audit.farewell(cluster)
    return found + cluster.findings + audit.traces(cluster)


def _fill(
    report: Report,
    cluster: Cluster,
    history: History,
    consumed: consumption.Consumption,
    injuries: Injuries,
    watchman: ledger.Watchman,
) -> None:
    told = logs.count((life.log for life in cluster.lives()), _EVENTS)
    report.faults = injuries.counted
    everything = [*history.accepted, *consumed.accepted]
    report.jobs, report.items = len(everything), sum(s.item_count for s in everything)
    report.deliveries = sum(isinstance(e, consumption.Got | consumption.Ended) for e in consumed.events)
    report.recomputed_batches = told["lost_results_recomputed"] + told["leases_recovered"]
    report.stale_outcomes = told["stale_outcome_dropped"]
    report.leaders = told["leadership_taken"]
    report.looks = watchman.looks


def _write_log(directory: Path, injuries: Injuries, faults: Sequence[Fault]) -> None:
    """The plan and what became of it, beside the logs of the processes."""
    lines = ["planned:", *map(str, faults), "", "happened:", *injuries.log]
    (directory / "faults.txt").write_text("\n".join(lines) + "\n")
