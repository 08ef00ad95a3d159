"""One replica is cut off from Postgres alone, or stands still: the others go on within seconds, and its workers keep
what they have in hand.

Nothing here ends a worker, so nothing may be computed twice: what was claimed and had not reached its worker may be
claimed once more, no more than the replica had in flight.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_runtime import channels
from tests.support import ledger_moves, processes, stack
from tests.support.replicas import SCHEDULERS, WORKERS, Replicas, assert_exact, replicated
from tests.support.tcp_proxy import Conditions, Flow, TcpProxy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 60.0
TEXTS = [f"text {n}" for n in range(60_000)]
SLOWLY = {"fault_delay_s": "0.012"}
PARTITION = Conditions(up=Flow.HOLD, down=Flow.HOLD)
# Keepalive of the worker (3 s, then 6 s for the answer) and of the SDK (5 + 10 s); and what a busy machine adds.
WORKER_NOTICES_S = 9.0
SDK_NOTICES_S = 15.0
ROOM_S = 5.0

LEADER = "SELECT leader_replica_id FROM cluster"
ATTACHED = "SELECT DISTINCT hostname, replica_id FROM sessions WHERE state = 'OPEN'"


async def other_than_the_leader(replicas: Replicas) -> str:
    """The replica that does not lead."""
    leader = await leading(replicas)
    return next(name for name in SCHEDULERS if name != leader)


async def leading(replicas: Replicas) -> str:
    """The replica that leads."""
    async with ledger_moves.ledger(replicas.running) as connection:
        name: str = await connection.fetchval(LEADER)
    return name


async def workers_leave(replicas: Replicas, victim: str) -> float:
    """Waits until all workers have their session at another replica; returns how long that took."""
    began = time.monotonic()
    async with ledger_moves.ledger(replicas.running) as connection, asyncio.timeout(STEP_S):
        while True:
            rows = await connection.fetch(ATTACHED)
            if {r["hostname"] for r in rows if r["replica_id"] != victim} == set(WORKERS):
                return time.monotonic() - began
            await asyncio.sleep(0.02)


async def attached(replicas: Replicas, scheduler: str) -> int:
    """How many workers have their session there."""
    async with ledger_moves.ledger(replicas.running) as connection:
        return sum(row["replica_id"] == scheduler for row in await connection.fetch(ATTACHED))


async def assert_computed_once(replicas: Replicas, victim: str) -> None:
    """No item went through a model twice, and only what the victim had in flight was claimed again."""
    counts = [processes.metric(replicas.named[n].metrics, "podium_worker_items_computed_total") for n in WORKERS]
    again = await ledger_moves.claimed_again(replicas.running)
    bound = await ledger_moves.in_flight(replicas.running, [victim])
    print(f"{victim} had {len(bound)} batches in flight, of which {sum(again.values())} were claimed again")
    assert sum(await asyncio.gather(*counts)) == len(TEXTS)
    assert again.keys() <= bound
    assert sum(again.values()) <= len(bound)


@asynccontextmanager
async def stopped(service: stack.Service) -> AsyncIterator[None]:
    """SIGSTOP for the length of the block."""
    await processes.freeze(service.process.pid)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def behind_proxies(directory: Path) -> AsyncIterator[tuple[Replicas, dict[str, TcpProxy]]]:
    """The stack; each scheduler reaches Postgres through a proxy of its own."""
    async with stack.servers(directory) as running, AsyncExitStack() as exits:
        running.environment |= {f"PODIUM_{name.upper()}": value for name, value in SLOWLY.items()}
        await ledger_moves.watch(running)
        proxies = {n: await exits.enter_async_context(TcpProxy(running.postgres.port)) for n in SCHEDULERS}
        url = running.environment["PODIUM_POSTGRES_URL"]
        replicas = Replicas(running)
        await replicas.start_all(
            {n: {"postgres_url": re.sub(r":\d+/", f":{proxy.port}/", url)} for n, proxy in proxies.items()}
        )
        yield replicas, proxies


@pytest.mark.parametrize("who", ["leader", "other"])
async def test_a_scheduler_alone_is_cut_off_from_postgres(tmp_path: Path, who: str) -> None:
    async with behind_proxies(tmp_path) as (replicas, proxies):
        victim = ""

        async def cut_off() -> None:
            nonlocal victim
            victim = await (leading if who == "leader" else other_than_the_leader)(replicas)
            workers = await attached(replicas, victim)
            await proxies[victim].impose(PARTITION)
            took_s = await workers_leave(replicas, victim)
            print(f"cut off from Postgres ({who}): its {workers} workers elsewhere after {took_s:.1f} s")

        result = await replicas.embed_while(TEXTS, cut_off, at=0.05)
        await assert_computed_once(replicas, victim)
        await proxies[victim].heal()
    assert_exact(result, TEXTS)


async def test_a_scheduler_that_does_not_lead_stands_still(tmp_path: Path) -> None:
    async with replicated(tmp_path, **SLOWLY) as replicas:
        victim = await other_than_the_leader(replicas)
        slowest_call_s = reattached_s = 0.0

        async def calls() -> None:
            nonlocal slowest_call_s
            async with AsyncClient(replicas.named["gateway0"].address, stack.APP_TOKEN) as client:
                for _ in range(8):
                    began = time.monotonic()
                    await anext(client.jobs())
                    slowest_call_s = max(slowest_call_s, time.monotonic() - began)

        async def stand_still() -> None:
            nonlocal reattached_s
            workers = await attached(replicas, victim)
            async with stopped(replicas.named[victim]):
                reattached_s, _ = await asyncio.gather(workers_leave(replicas, victim), calls())
            print(f"stopped: its {workers} workers elsewhere after {reattached_s:.1f} s")
            print(f"slowest call through a gateway: {slowest_call_s:.1f} s")

        result = await replicas.embed_while(TEXTS, stand_still, at=0.05)
        await assert_computed_once(replicas, victim)
    assert_exact(result, TEXTS)
    assert reattached_s < WORKER_NOTICES_S + ROOM_S
    assert slowest_call_s < channels.NOTICED_S + ROOM_S


async def test_a_gateway_stands_still_and_the_sdk_goes_on_at_the_other(tmp_path: Path) -> None:
    async with replicated(tmp_path, **SLOWLY) as replicas:
        result, longest_s = await embed_with_a_gateway_stopped(replicas)
        assert await ledger_moves.claimed_again(replicas.running) == {}
    assert_exact(result, TEXTS)
    print(f"longest pause of the SDK: {longest_s:.1f} s")
    assert longest_s < SDK_NOTICES_S + ROOM_S


async def embed_with_a_gateway_stopped(replicas: Replicas) -> tuple[Embeddings, float]:
    """Embeds all while one gateway, by which half of the calls go, stands still; and the longest time without news."""
    reached, longest_s, heard_at = asyncio.Event(), 0.0, time.monotonic()

    def progress(call: object) -> None:
        nonlocal longest_s, heard_at
        now = time.monotonic()
        if reached.is_set():
            longest_s = max(longest_s, now - heard_at)
        heard_at = now
        if getattr(call, "items_done", 0) >= 0.05 * len(TEXTS):
            reached.set()

    async with AsyncClient(replicas.addresses("gateway"), stack.APP_TOKEN) as client, asyncio.timeout(4 * STEP_S):
        embedding = asyncio.create_task(
            client.embed_texts(TEXTS, workload="hash-384", progress=progress, items_per_job=5_000)
        )
        await reached.wait()
        async with stopped(replicas.named["gateway0"]):
            return await embedding, longest_s
