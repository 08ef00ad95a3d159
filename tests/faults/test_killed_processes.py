"""kill -9 of each kind of process, and of all at once, in the middle of a large job: nothing is lost, nothing comes
twice, and what is computed again is bounded.

The bound. A batch is computed again only if it was in flight when its process died: LEASED in a session of that process
(of a worker: given to it; of a scheduler: given out by it), and not COMPLETED there. Each at most once for one death.
A gateway holds nothing, so nothing. Postgres and Redis lose nothing that they had acknowledged by dying, so they add
nothing. Where Redis loses its data, what was COMPLETED and not yet released (not DELIVERED) comes on top, and no more.
Counted is each claim of a batch beyond its first, so that batches count too that were lost on their way to a worker,
before anybody computed them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import redis.asyncio as redis

from tests.support import ledger_moves, processes
from tests.support.replicas import Replicas, assert_exact, replicated

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TEXTS = [f"text {n}" for n in range(100_000)]


@asynccontextmanager
async def busy(directory: Path) -> AsyncIterator[Replicas]:
    """The stack, slowed down: when its clients have the first results, most batches still wait."""
    async with replicated(directory, fault_delay_s="0.004") as replicas:
        yield replicas


async def assert_bounded(replicas: Replicas, bound: set[int]) -> None:
    """Only batches of the bound were claimed again, each once."""
    again = await ledger_moves.claimed_again(replicas.running)
    print(f"claimed again: {sum(again.values())}; bound: {len(bound)}")
    assert again.keys() <= bound
    assert sum(again.values()) <= len(bound)


async def kill(replicas: Replicas, names: Iterable[str]) -> None:
    """SIGKILL, and waits for the ends."""
    await asyncio.gather(*(replicas.named[name].stop(signal.SIGKILL) for name in names))


async def test_a_gateway_is_killed(tmp_path: Path) -> None:
    async with busy(tmp_path) as replicas:
        result = await replicas.embed_while(TEXTS, lambda: kill(replicas, ["gateway0"]))
        await assert_bounded(replicas, set())
    assert_exact(result, TEXTS)


@pytest.mark.parametrize("kind", ["worker", "scheduler"])
async def test_one_process_of_a_kind_is_killed(tmp_path: Path, kind: str) -> None:
    async with busy(tmp_path) as replicas:
        victim = ""

        async def kill_the_busiest() -> None:
            nonlocal victim
            victim = await ledger_moves.busiest(replicas.running, kind)
            await kill(replicas, [victim])

        result = await replicas.embed_while(TEXTS, kill_the_busiest)
        bound = await ledger_moves.in_flight(replicas.running, [victim])
        assert bound, "it had something in flight"
        await assert_bounded(replicas, bound)
    assert_exact(result, TEXTS)


async def test_both_schedulers_are_killed_and_one_comes_back(tmp_path: Path) -> None:
    async with busy(tmp_path) as replicas:
        old = replicas.of("scheduler")

        async def kill_and_restart() -> None:
            await kill(replicas, old)
            await replicas.start("scheduler2", scheduler_listen=old["scheduler0"].address)

        result = await replicas.embed_while(TEXTS, kill_and_restart)
        bound = await ledger_moves.in_flight(replicas.running, old)
        assert bound, "they had something in flight"
        await assert_bounded(replicas, bound)
    assert_exact(result, TEXTS)


async def test_every_worker_is_killed_and_new_ones_come(tmp_path: Path) -> None:
    async with busy(tmp_path) as replicas:
        old = replicas.of("worker")

        async def kill_and_restart() -> None:
            await kill(replicas, old)
            await replicas.start("worker3")

        result = await replicas.embed_while(TEXTS, kill_and_restart)
        bound = await ledger_moves.in_flight(replicas.running, old)
        assert bound, "they had something in flight"
        await assert_bounded(replicas, bound)
    assert_exact(result, TEXTS)


async def test_redis_loses_everything(tmp_path: Path) -> None:
    async with busy(tmp_path) as replicas:
        bound: set[int] = set()

        async def note() -> None:
            bound.update(await ledger_moves.in_states(replicas.running, "LEASED", "COMPLETED"))

        async def flush() -> None:
            # Before and after: what was so in between is in one of them.
            await note()
            async with redis.Redis.from_url(replicas.running.redis.url) as client:
                await client.flushall()
            await note()

        result = await replicas.embed_while(TEXTS, flush)
        await assert_bounded(replicas, bound)
    assert_exact(result, TEXTS)


async def test_everything_is_killed_at_once(tmp_path: Path) -> None:
    async with busy(tmp_path) as replicas:
        old = dict(replicas.named)

        async def kill_and_restart() -> None:
            await kill_all(replicas)
            postgres, buffer = replicas.running.own_postgres, replicas.running.redis
            await asyncio.gather(*(server.start(server.port) for server in (postgres, buffer)))
            await start_again(replicas, old)

        result = await replicas.embed_while(TEXTS, kill_and_restart)
        bound = await ledger_moves.in_flight(replicas.running, old)
        assert bound, "they had something in flight"
        await assert_bounded(replicas, bound)
    assert_exact(result, TEXTS)


async def kill_all(replicas: Replicas) -> None:
    """Every process of the stack, executors and backends of Postgres included, in one breath."""
    servers = (replicas.running.own_postgres, replicas.running.redis)
    roots = [service.process.pid for service in replicas.named.values()] + [s.pid for s in servers if s.pid is not None]
    everyone = [p for pid in roots for p in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid))]
    for process in everyone:
        # It may have ended by itself, or with the one that it belongs to.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await asyncio.gather(*(service.process.wait() for service in replicas.named.values()))
    for server in servers:
        await server.wait()
        await server.stop()
    _, alive = await asyncio.to_thread(psutil.wait_procs, everyone, processes.STEP_S)
    assert alive == []


async def start_again(replicas: Replicas, old: Collection[str]) -> None:
    """As many as there were, under new names; schedulers and gateways where the old ones listened."""
    starts = []
    for name in old:
        kind, number = name.rstrip("0123456789"), int(name[-1])
        listen = {} if kind == "worker" else {f"{kind}_listen": replicas.named[name].address}
        starts.append(replicas.start(f"{kind}{number + len(old)}", **listen))
    await asyncio.gather(*starts)
