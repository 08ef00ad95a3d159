"""ConsumeResults on a whole stack: the SDK and the command share, redeliver, survive and never leave anything out."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import redis.asyncio as redis

from podium_client import AsyncClient, Client, JobDelivery, ResultDelivery, ResultsReleased
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP_S = 60.0
Place = tuple[str, int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    async with stack.servers(tmp_path_factory.mktemp("consume")) as servers:
        yield servers


@pytest_asyncio.fixture(loop_scope="module")
async def running(shared: stack.Stack, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[stack.Stack]:
    """Two gateways, an empty ledger. By default no consumer loses its lease, however busy the machine is."""
    async with stack.fresh(shared, tmp_path) as made:
        await made.start("scheduler", consumer_lease_s=getattr(request, "param", "60"))
        await asyncio.gather(made.start("gateway"), made.start("gateway"), made.start("worker"))
        yield made


def addresses(running: stack.Stack) -> str:
    return ",".join(s.address for s in running.services if s.name == "gateway")


async def consume(
    client: AsyncClient, group: str, into: Counter[Place], jobs: set[str], *, until: int, window: int = 8
) -> int:
    """Consumes until the ends of `until` jobs are in `jobs`; returns how many deliveries came."""
    count = 0
    async with asyncio.timeout(STEP_S), aclosing(client.consume(group=group, window=window)) as deliveries:
        async for delivery in deliveries:
            count += 1
            if isinstance(delivery, JobDelivery):
                jobs.add(delivery.job.job_id)
            else:
                into.update((delivery.job_id, int(row)) for row in delivery.rows)
            await delivery.ack()
            if len(jobs) == until:
                return count
    raise AssertionError("unreachable")


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


async def test_vectors_keys_and_errors_arrive_as_views(running: stack.Stack) -> None:
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        job = await client.submit(texts(600), workload="hash-384", keys=[f"key {n}" for n in range(600)])
        found = np.zeros((600, 384), dtype=np.float32)
        keys: dict[int, str] = {}
        async with aclosing(client.consume(group="g")) as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                if isinstance(delivery, JobDelivery):
                    break
                assert delivery.job_id == job.job_id
                found[delivery.rows] = delivery.vectors
                keys |= dict(zip(delivery.rows.tolist(), delivery.keys, strict=True))
        np.testing.assert_array_equal(found, hash_vectors([t.encode() for t in texts(600)], 384))
        assert keys == {n: f"key {n}" for n in range(600)}
        assert isinstance(delivery, JobDelivery)
        assert (delivery.job.job_id, delivery.job.progress.items_released) == (job.job_id, 600)


async def test_two_consumers_share_and_two_groups_each_get_everything(running: stack.Stack) -> None:
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client:
        jobs = await client.submit_texts(texts(20_000), workload="hash-384", items_per_job=5_000)
        one, two = Counter[Place](), Counter[Place]()
        ended_one, ended_two = set[str](), set[str]()
        halves = [asyncio.create_task(consume(client, "one", one, ended_one, until=4, window=1)) for _ in range(2)]
        await consume(client, "two", two, ended_two, until=4)
        done, waiting = await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    everything = Counter({(job.job_id, n): 1 for job in jobs for n in range(5_000)})
    assert one == two == everything
    assert ended_one == ended_two == {job.job_id for job in jobs}
    # 80 batches and 4 jobs: whoever has seen the last of them has not seen all of them.
    assert all(0 < task.result() < 84 for task in done)


@pytest.mark.parametrize("running", ["5"], indirect=True, ids=["lease of 5 s"])
async def test_what_a_dead_gateway_held_comes_again_through_the_other(running: stack.Stack) -> None:
    first, second = [s for s in running.services if s.name == "gateway"]
    async with (
        AsyncClient(first.address, stack.APP_TOKEN) as doomed,
        AsyncClient(second.address, stack.APP_TOKEN) as client,
        asyncio.timeout(STEP_S),
    ):
        job = await client.submit(texts(1_000), workload="hash-384")
        held = doomed.consume(group="g", window=1)
        taken = await anext(held)
        await first.stop(signal.SIGKILL)
        seen: Counter[Place] = Counter()
        await consume(client, "g", seen, set(), until=1)
        assert isinstance(taken, ResultDelivery)
        assert seen == Counter({(job.job_id, n): 1 for n in range(1_000)})
        await held.aclose()


async def test_a_consumer_goes_on_at_the_other_gateway(running: stack.Stack) -> None:
    gateways = [s for s in running.services if s.name == "gateway"]
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        seen: Counter[Place] = Counter()
        ended: set[str] = set()
        consuming = asyncio.create_task(consume(client, "g", seen, ended, until=2))
        first = await client.submit(texts(500), workload="hash-384")
        async for _ in client.watch(first.job_id):
            continue
        await gateways[0].stop(signal.SIGTERM)
        second = await client.submit(texts(500), workload="hash-384")
        await consuming
    assert set(seen) == {(job.job_id, n) for job in (first, second) for n in range(500)}
    assert ended == {first.job_id, second.job_id}


async def test_a_reader_of_consumed_results_is_told_so_and_nothing_is_left_in_redis(running: stack.Stack) -> None:
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        job = await client.submit(texts(1_000), workload="hash-384")
        async with aclosing(client.consume(group="g", window=1)) as deliveries:
            first = await anext(deliveries)
            second = None
            await first.ack()
            second = await anext(deliveries)
        assert isinstance(first, ResultDelivery)
        assert isinstance(second, ResultDelivery)
        with pytest.raises(ResultsReleased):
            async for _ in client.results(job.job_id):
                continue
        await consume(client, "g", Counter(), set(), until=1)
        assert (await client.job(job.job_id)).results_released
    async with redis.Redis.from_url(running.redis.url) as buffer, asyncio.timeout(STEP_S):
        while True:
            if not await buffer.keys(f"podium:*{job.job_id}*"):
                break
            await asyncio.sleep(0.05)


async def test_the_synchronous_client_and_the_command(running: stack.Stack) -> None:
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client:
        await client.submit(texts(300), workload="hash-384")

    def blocking() -> list[str]:
        found = []
        with Client(addresses(running), stack.APP_TOKEN) as podium:
            for delivery in podium.consume(group="sync"):
                found.append(type(delivery).__name__)
                podium.ack(delivery)
                if isinstance(delivery, JobDelivery):
                    return found
        raise AssertionError("unreachable")

    async with asyncio.timeout(STEP_S):
        found = await asyncio.to_thread(blocking)
    # The first group was alone when it acknowledged, so nothing of the first job is left for the second group.
    async with AsyncClient(addresses(running), stack.APP_TOKEN) as client:
        job = await client.submit(texts(300), workload="hash-384")
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "podium_cli", "consume", "--group", "command", "--limit", str(len(found)), "--json"),
        env=running.environment | {"PODIUM_ADDRESS": addresses(running), "PODIUM_TOKEN": stack.APP_TOKEN},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(STEP_S):
        output, _ = await command.communicate()
    assert found == ["ResultDelivery"] * (len(found) - 1) + ["JobDelivery"]
    printed = [json.loads(line) for line in output.splitlines()]
    assert [p.get("job_id") or p["job"]["job_id"] for p in printed] == [job.job_id] * len(found)
    vectors = np.array([v for p in printed[:-1] for v in p["vectors"]], dtype=np.float32)
    rows = [row for p in printed[:-1] for row in p["rows"]]
    np.testing.assert_array_equal(vectors[np.argsort(rows)], hash_vectors([t.encode() for t in texts(300)], 384))
