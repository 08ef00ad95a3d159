"""A network that swallows everything between a worker and its scheduler: nobody is told, both notice, and what comes
back too late does no harm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import processes, stack
from tests.support.fake_worker import FakeWorker
from tests.support.tcp_proxy import Conditions, Flow, TcpProxy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
COMPUTED = "podium_worker_items_computed_total"
BLACK_HOLE = Conditions(up=Flow.HOLD, down=Flow.HOLD)
TEXTS = [f"text {n}" for n in range(4_000)]


def assert_exact(result: Embeddings) -> None:
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


def events(service: stack.Service, name: str) -> list[dict[str, object]]:
    """What a service's log says under a name."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


@asynccontextmanager
async def behind_a_proxy(directory: Path) -> AsyncIterator[tuple[stack.Stack, TcpProxy]]:
    """Two schedulers and a gateway; the proxy leads to the first scheduler."""
    async with stack.servers(directory) as running:
        first = await running.start("scheduler")
        second = await running.start("scheduler")
        await running.start("gateway", scheduler_address=second.address)
        async with TcpProxy(_port(first)) as proxy:
            yield running, proxy


def _port(service: stack.Service) -> int:
    return int(service.address.rpartition(":")[2])


async def until(worker: stack.Service, name: str, least: float) -> None:
    """Waits until a metric has reached a value."""
    while await processes.metric(worker.metrics, name) < least:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.05)


async def test_a_worker_in_a_black_hole_goes_on_at_the_other_replica_with_what_it_holds(tmp_path: Path) -> None:
    async with behind_a_proxy(tmp_path) as (running, first), TcpProxy(_port(running.services[1])) as second:
        proxies = {proxy.address: proxy for proxy in (first, second)}
        worker = await running.start("worker", scheduler_address=",".join(proxies), fault_delay_s="0.05")
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384"))
            await until(worker, COMPUTED, 1)
            # It takes replicas in an order of its own.
            (opened,) = events(worker, "session_opened")
            proxy = proxies[str(opened["address"])]
            await proxy.impose(BLACK_HOLE)
            await until(worker, "podium_worker_sessions_total", 2)
            resumed = [e["resumed"] for e in events(worker, "session_opened")]
            result = await embedding
            computed = await processes.metric(worker.metrics, COMPUTED)
        # It took its batches along, within the lease, and computed none of them twice.
        assert int(str(resumed[1])) > 0
        assert computed == len(TEXTS)
        assert await processes.metric(worker.metrics, "podium_worker_fenced_total") == 0
        # What the network held back for minutes arrives in the end, at a replica that knows better.
        await proxy.heal()
    assert_exact(result)


async def test_a_worker_cut_off_from_all_replicas_lets_go_and_comes_back_after_the_network_heals(
    tmp_path: Path,
) -> None:
    async with behind_a_proxy(tmp_path) as (running, proxy):
        worker = await running.start(
            "worker", scheduler_address=proxy.address, fault_delay_s="0.05", connect_timeout_s="2"
        )
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384"))
            await until(worker, COMPUTED, 1)
            await proxy.impose(BLACK_HOLE)
            await until(worker, "podium_worker_fenced_total", 1)
            # The ledger's clock runs out as well: somebody else does the work meanwhile.
            other = await running.start("worker", scheduler_address=running.services[1].address)
            result = await embedding
            await proxy.heal()
            await until(worker, "podium_worker_sessions_total", 2)
            assert (await client.embed_texts(TEXTS[:10], workload="hash-384")).ok.all()
        assert await processes.metric(other.metrics, COMPUTED) > 0
    assert_exact(result)


async def test_a_completion_that_comes_after_the_lease_is_refused_counted_and_harmless(tmp_path: Path) -> None:
    async with stack.running(tmp_path, workers=0, lease_ttl_s="60", heartbeat_s="30") as running:
        slow, quick = FakeWorker(running.scheduler.address), FakeWorker(running.scheduler.address)
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            job = await client.submit(TEXTS[:4], workload="hash-384")
            async with slow.session() as late, quick.session() as good:
                await late.offer(1)
                stale = await late.assigned()
                # The ledger's clock runs out; the replica that has the stream does not look again for half a minute.
                await expire(running, slow)
                await good.offer(1)
                fresh = await good.assigned()
                assert fresh.lease.attempt == 2
                await late.finish(stale)
                await until(running.scheduler, "podium_stale_completions_total", 1)
                await good.finish(fresh)
                await good.hear("ack")
            result = await client.fetch(job.job_id)
        np.testing.assert_array_equal(result.vectors, np.repeat(np.arange(4, dtype="<f4")[:, None], 384, axis=1))


async def expire(running: stack.Stack, worker: FakeWorker) -> None:
    """Ends a worker's session in the ledger, as time does."""
    connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
    try:
        await connection.execute("UPDATE sessions SET expire_time = now() WHERE worker_id = $1", worker.worker_id)
    finally:
        await connection.close()
