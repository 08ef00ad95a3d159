"""`python -m tests.bench.recovery`: how long Podium takes to go on after a process died or stood still.

Two schedulers and three workers with default settings, under a load that leaves room: one batch of one item every
0.2 s, each of which takes 0.3 s. Everything is seen from outside, in the ledger's rows, and by the database's clock:
from the signal to the first row that shows that work goes on. Prints the table of docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import platform
import signal
import statistics
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from podium.common.v1 import item_pb2, workload_pb2
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium_runtime import auth
from tests.support import processes, stack

POLL_S = 0.01
LIMIT_S = 60.0
PACE_S = 0.2
COMPUTE_S = 0.3
TOKEN = auth.authorization(stack.INTERNAL_TOKEN)

_HELD = """
    SELECT b.batch_id FROM batches b JOIN sessions s USING (session_id)
    WHERE s.hostname = $1 AND s.state = 'OPEN' AND b.lease_time > clock_timestamp() - interval '0.1 s'
"""
_MOVED_ON = """
    SELECT bool_and(coalesce(s.hostname <> $2, b.state <> 'LEASED' AND b.finish_time IS NOT NULL)), max(b.lease_time)
    FROM batches b LEFT JOIN sessions s USING (session_id) WHERE b.batch_id = ANY($1::bigint[])
"""
_ATTACHED = "SELECT worker_id, replica_id FROM sessions WHERE state = 'OPEN'"
_LEADER = "SELECT leader_replica_id, leader_term FROM cluster"
_FED = "SELECT min(queue_time) FROM batches WHERE queue_time > $1"
_TAKEN = """
    SELECT b.batch_id, b.attempt FROM batches b JOIN sessions s USING (session_id)
    WHERE s.hostname = $1 AND b.state = 'LEASED' AND b.lease_time > $2
"""
_DONE = "SELECT batch_id, attempt, finish_time FROM batches WHERE batch_id = ANY($1::bigint[]) AND state = 'COMPLETED'"


@dataclass(slots=True)
class Bench:
    """A stack under load, its ledger, and names by which its processes are found in the rows."""

    running: stack.Stack
    ledger: asyncpg.Connection
    names: dict[str, stack.Service] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def alive(self, kind: str) -> dict[str, stack.Service]:
        """Processes of a kind that run, by name."""
        return {n: s for n, s in self.names.items() if s.name == kind and s.process.returncode is None}

    async def start(self, kind: str) -> None:
        """Starts one more, findable by name in `sessions` or `cluster`."""
        name = f"{kind}-{next(self.numbers)}"
        setting = {"scheduler": "replica_id", "worker": "hostname"}[kind]
        self.names[name] = await self.running.start(kind, **{setting: name})

    async def now(self) -> datetime:
        """The database's clock."""
        found: datetime = await self.ledger.fetchval("SELECT clock_timestamp()")
        return found

    async def until(self, look: Callable[[], Awaitable[Any]]) -> Any:
        """What a look finds, as soon as it finds something."""
        async with asyncio.timeout(LIMIT_S):
            while not (found := await look()):  # noqa: ASYNC110 - rows tell nobody
                await asyncio.sleep(POLL_S)
        return found

    async def whole(self) -> None:
        """Brings the stack back to two schedulers and three workers, all at work under a leader that lives."""
        schedulers = self.alive("scheduler")
        for _ in range(2 - len(schedulers)):
            # Where the dead one was, so that the workers know its address.
            free = {s.address for s in self.names.values() if s.name == "scheduler"}
            free -= {s.address for s in self.alive("scheduler").values()}
            name = f"scheduler-{next(self.numbers)}"
            self.names[name] = await self.running.start("scheduler", replica_id=name, scheduler_listen=free.pop())
        for _ in range(3 - len(self.alive("worker"))):
            await self.start("worker")

        async def at_work() -> bool:
            leader = await self.ledger.fetchval("SELECT leader_replica_id FROM cluster")
            rows = await self.ledger.fetch("SELECT DISTINCT hostname FROM sessions WHERE state = 'OPEN'")
            return leader in self.alive("scheduler") and {r[0] for r in rows} >= self.alive("worker").keys()

        await self.until(at_work)
        # Let what was interrupted work itself off: each round begins in the same state.
        await asyncio.sleep(2.0)

    async def holding(self) -> tuple[str, list[int]]:
        """A worker that has just been given work, and that work."""

        async def look() -> tuple[str, list[int]] | None:
            for name in self.alive("worker"):
                held = [r[0] for r in await self.ledger.fetch(_HELD, name)]
                if held:
                    return name, held
            return None

        found: tuple[str, list[int]] = await self.until(look)
        return found


async def worker(bench: Bench, number: signal.Signals) -> float:
    """From the end of a worker to all of its batches being leased by others."""
    name, held = await bench.holding()
    began = await bench.now()
    bench.names[name].process.send_signal(number)

    async def look() -> datetime | None:
        moved, at = await bench.ledger.fetchrow(_MOVED_ON, held, name)
        return at if moved else None

    ended = await bench.until(look)
    _wake(bench.names[name], number)
    return max(0.0, float((ended - began).total_seconds()))


async def scheduler(bench: Bench, number: signal.Signals) -> float:
    """From the end of a scheduler to each of its workers having a session elsewhere."""
    rows = await bench.ledger.fetch(_ATTACHED)
    name = max(bench.alive("scheduler"), key=lambda n: sum(r["replica_id"] == n for r in rows))
    workers = {r["worker_id"] for r in rows if r["replica_id"] == name}
    began = await bench.now()
    bench.names[name].process.send_signal(number)

    async def look() -> bool:
        rows = await bench.ledger.fetch(_ATTACHED)
        return workers <= {r["worker_id"] for r in rows if r["replica_id"] != name}

    await bench.until(look)
    return (await bench.now() - began).total_seconds()


async def leader(bench: Bench, number: signal.Signals) -> float:
    """From the end of the leader to the first batch that its successor feeds."""
    name, term = await bench.ledger.fetchrow(_LEADER)
    began = await bench.now()
    bench.names[name].process.send_signal(number)

    async def succeeded() -> bool:
        return bool((await bench.ledger.fetchrow(_LEADER))["leader_term"] > term)

    async def fed() -> datetime | None:
        # What the old one had begun to commit may still land.
        found: datetime | None = await bench.ledger.fetchval(_FED, began + timedelta(milliseconds=100))
        return found

    await bench.until(succeeded)
    ended = await bench.until(fed)
    _wake(bench.names[name], number)
    return float((ended - began).total_seconds())


async def executor(bench: Bench, number: signal.Signals) -> float:
    """From the end of an executor to the end of the next batch that its worker was given (less what that takes)."""
    name, _ = await bench.holding()
    victim = processes.children(bench.names[name].process.pid)[0]
    began = await bench.now()
    os.kill(victim, number)
    taken: dict[int, int] = {}

    async def look() -> datetime | None:
        taken.update({r[0]: r[1] for r in await bench.ledger.fetch(_TAKEN, name, began)})
        done = await bench.ledger.fetch(_DONE, list(taken))
        return min((r["finish_time"] for r in done if r["attempt"] == taken[r["batch_id"]]), default=None)

    ended = await bench.until(look)
    return max(0.0, float((ended - began).total_seconds()) - COMPUTE_S)


def _wake(service: stack.Service, number: signal.Signals) -> None:
    if number is signal.SIGSTOP:
        service.process.send_signal(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    measure: Callable[[Bench, signal.Signals], Awaitable[float]]
    signal: signal.Signals
    target_s: float | None = None


CASES = {
    "worker": Case("worker killed: its batches leased by others", worker, signal.SIGKILL, 3.0),
    "scheduler": Case("scheduler killed: its workers attached elsewhere", scheduler, signal.SIGKILL, 5.0),
    "leader": Case("leader killed: feeding again", leader, signal.SIGKILL, 5.0),
    "leader-stopped": Case("leader stopped (SIGSTOP): feeding again", leader, signal.SIGSTOP),
    "worker-stopped": Case("worker stopped (SIGSTOP): its batches leased by others", worker, signal.SIGSTOP),
    "executor": Case("executor killed: its worker computes again", executor, signal.SIGKILL),
}


@contextlib.asynccontextmanager
async def loaded() -> AsyncIterator[Bench]:
    """The stack, with a steady stream of small jobs."""
    with tempfile.TemporaryDirectory(prefix="podium-recovery-") as name:
        async with stack.servers(Path(name), as_deployed=True) as running:
            running.environment |= {"PODIUM_FAULT_DELAY_S": str(COMPUTE_S), "PODIUM_WORKLOADS": "hash-384"}
            ledger = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
            bench = Bench(running, ledger)
            for _ in range(2):
                await bench.start("scheduler")
            addresses = ",".join(s.address for s in running.services)
            running.environment["PODIUM_SCHEDULER_ADDRESS"] = addresses
            load = asyncio.create_task(_submit(bench))
            try:
                yield bench
            finally:
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)
                await ledger.close()


async def _submit(bench: Bench) -> None:
    """Admits a job of one batch at each beat, through whichever scheduler answers."""
    async with contextlib.AsyncExitStack() as channels:
        stubs: dict[str, scheduler_pb2_grpc.SchedulerServiceStub] = {}
        for beat in itertools.count():
            for service in list(bench.alive("scheduler").values()):
                if service.address not in stubs:
                    channel = await channels.enter_async_context(grpc.aio.insecure_channel(service.address))
                    stubs[service.address] = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stubs[service.address].AdmitJob(_job(beat), metadata=TOKEN, timeout=0.5)
                    break
            await asyncio.sleep(PACE_S)


def _job(beat: int) -> scheduler_pb2.AdmitJobRequest:
    payload = item_pb2.TextItems(items=[item_pb2.TextItem(text=f"text {beat}")]).SerializeToString()
    batch = scheduler_pb2.NewBatch(
        item_count=1, payload=payload, payload_encoding=item_pb2.PAYLOAD_ENCODING_IDENTITY
    )  # fmt: skip
    return scheduler_pb2.AdmitJobRequest(
        app_id="default",
        request_id=str(uuid.uuid4()),
        payload_digest=b"recovery",
        workload="hash-384",
        modality=workload_pb2.MODALITY_TEXT,
        priority=3,
        batches=[batch],
    )


async def measure(rounds: int, names: list[str]) -> dict[str, list[float | None]]:
    """Seconds of every round of each case; None where nothing went on within a minute."""
    figures: dict[str, list[float | None]] = {name: [] for name in names}
    async with loaded() as bench:
        for number in range(rounds):
            for name in names:
                case = CASES[name]
                await bench.whole()
                try:
                    figures[name].append(await case.measure(bench, case.signal))
                except TimeoutError:
                    figures[name].append(None)
                    for service in bench.names.values():
                        if service.process.returncode is None:
                            service.process.send_signal(signal.SIGCONT)
                found = figures[name][-1]
                print(f"round {number + 1}: {case.name}: {'-' if found is None else f'{found:.2f} s'}", flush=True)
    return figures


def table(figures: dict[str, list[float | None]]) -> str:
    """Markdown."""
    lines = ["| what | rounds | median | slowest | target |", "|---|---|---|---|---|"]
    for name, rounds in figures.items():
        case = CASES[name]
        times = [LIMIT_S if t is None else t for t in rounds]
        slowest = f"over {LIMIT_S:.0f} s" if None in rounds else f"{max(times):.2f} s"
        target = "" if case.target_s is None else f"< {case.target_s:.0f} s"
        lines.append(f"| {case.name} | {len(times)} | {statistics.median(times):.2f} s | {slowest} | {target} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints the table; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=list(CASES), action="append", help="a case; may be given again")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.rounds, arguments.only or list(CASES)))
    print(f"\n{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}\n")
    print(table(figures))
    missed = [
        name for name, rounds in figures.items()
        if (target := CASES[name].target_s) and any(t is None or t > target for t in rounds)
    ]  # fmt: skip
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
