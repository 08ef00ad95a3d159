"""A small Redis and much more result than it can hold: memory stays bounded, nobody is stuck, every item comes once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis.asyncio as redis

from podium_client import AsyncClient, Overloaded, RetryPolicy
from podium_scheduler.adapters.sql import database, job_ledger
from podium_scheduler.app import admission
from podium_scheduler.domain import fairness
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import processes, stack
from tests.support.fake_worker import FakeWorker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
MIB = 1 << 20
LIMIT = 24 * MIB
TEXTS = [f"text {n}" for n in range(50_000)]
"""Of 384 elements: 73 MiB of results, three times what Redis may hold."""
GROWTH = 96 * MIB
"""How much a process may grow while it handles them."""
OTHER_TOKEN = "token-of-another-app"


@dataclass
class Small:
    """A stack whose Redis is small."""

    stack: stack.Stack
    redis: redis.Redis
    client: AsyncClient

    async def share(self) -> float:
        """Used share of Redis' limit."""
        info = await self.redis.info("memory")
        return float(info["used_memory"]) / float(info["maxmemory"])

    async def fed_up(self) -> None:
        """Waits until feeding has stopped for want of room, and all that was in flight is stored."""
        last, same = -1.0, 0
        async with asyncio.timeout(STEP_S):
            while same < 5:
                await asyncio.sleep(0.5)
                computed = await processes.metric(self.stack.scheduler.metrics, "podium_items_total")
                full = await self.share() > 0.7
                same = same + 1 if full and computed == last else 0
                last = computed

    async def shed(self) -> float:
        """Results dropped to make room."""
        return await processes.metric(self.stack.scheduler.metrics, "podium_results_recomputed_total", cause="shed")

    async def waited(self) -> bool:
        """Whether Redis ever refused a result."""
        log = await asyncio.to_thread(self.stack.scheduler.log.read_text)
        return "completion_waits" in log

    def sizes(self) -> dict[str, int]:
        """Resident memory of each process."""
        return {f"{s.name}": psutil.Process(s.process.pid).memory_info().rss for s in self.stack.services}


@asynccontextmanager
async def small(directory: Path, *, workers: int = 1) -> AsyncIterator[Small]:
    async with (
        stack.running(directory, workers=workers) as running,
        redis.Redis.from_url(running.redis.url) as buffer,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
    ):
        await buffer.config_set("maxmemory", LIMIT)
        yield Small(running, buffer, client)


async def another_app(running: stack.Stack) -> AsyncClient:
    """A client of an app of its own."""
    pool = database.Database(running.environment["PODIUM_POSTGRES_URL"], pool_size=2)
    ledger = job_ledger.JobLedger(pool)
    await ledger.put_app("another")
    await ledger.put_token(uuid.uuid4(), "another", admission.token_hash(OTHER_TOKEN), "test")
    await pool.close()
    return AsyncClient(running.gateway.address, OTHER_TOKEN)


async def read(system: Small, job_id: str) -> np.ndarray:
    """All vectors of a job; each item must come once, in order."""
    rows: list[np.ndarray] = []
    reached = 0
    async for chunk in system.client.results(job_id):
        assert chunk.first_item == reached
        assert not chunk.errors
        reached = chunk.end_item
        rows.append(np.array(chunk.vectors))
    return np.concatenate(rows)


def expected(texts: list[str]) -> np.ndarray:
    return hash_vectors([t.encode() for t in texts], 384)


async def test_one_call_whose_results_are_three_times_redis(tmp_path: Path) -> None:
    async with small(tmp_path) as system:
        before, peak, fullest = system.sizes(), system.sizes(), 0.0
        embedding = asyncio.create_task(system.client.embed_texts(TEXTS, workload="hash-384", items_per_job=50_000))
        async with asyncio.timeout(STEP_S):
            while not (await asyncio.wait([embedding], timeout=0.2))[0]:
                fullest = max(fullest, await system.share())
                peak = {name: max(size, peak[name]) for name, size in system.sizes().items()}
        refused = await system.waited()
    print("resident MiB, before and peak:", {k: (v // MIB, peak[k] // MIB) for k, v in before.items()}, fullest)
    np.testing.assert_array_equal((await embedding).vectors, expected(TEXTS))
    assert not refused, "there is room for a result before it is computed"
    assert fullest < 0.97
    assert all(peak[name] - before[name] < GROWTH for name in before), (before, peak)


async def test_a_client_that_does_not_read_costs_no_memory_and_goes_on_later(tmp_path: Path) -> None:
    async with small(tmp_path) as system:
        before = system.sizes()
        (job,) = await system.client.submit_texts(TEXTS, workload="hash-384", items_per_job=50_000)
        stalled = system.client.results(job.job_id)
        await anext(stalled)
        await system.fed_up()
        after = system.sizes()
        print("resident MiB, before and after:", {k: (v // MIB, after[k] // MIB) for k, v in before.items()})
        assert all(after[name] - before[name] < GROWTH for name in before), (before, after)
        assert await system.share() < 0.93, "the reserve is for what was retried"
        rest = [np.array(chunk.vectors) async for chunk in stalled]
        job_after = await system.client.job(job.job_id)
        assert not await system.waited()
    missing = len(TEXTS) - sum(map(len, rest))
    np.testing.assert_array_equal(np.concatenate(rest), expected(TEXTS)[missing:])
    assert job_after.progress.items_succeeded == len(TEXTS)


async def test_a_worker_that_returns_nothing_holds_no_more_than_its_credits(tmp_path: Path) -> None:
    credits, beats = 4, 12
    async with small(tmp_path, workers=0) as system:
        # Room for all results: what is held comes first in the order, so nothing can be read before it is given back.
        await system.redis.config_set("maxmemory", 16 * LIMIT)
        before = system.sizes()
        (job,) = await system.client.submit_texts(TEXTS, workload="hash-384", items_per_job=50_000)
        async with FakeWorker(system.stack.scheduler.address).session() as miser:
            await miser.offer(credits)
            held = [await miser.assigned() for _ in range(credits)]
            for _ in range(beats):
                await miser.offer(credits)
                # `hear` refuses an Assign: nothing comes but the word that its leases are renewed.
                await miser.hear("desired")
            waiting = await system.redis.xlen("podium:work:hash-384")
            assert 0 < waiting <= fairness.target_depth(credits)
            after = system.sizes()
            print("resident MiB, before and after:", {k: (v // MIB, after[k] // MIB) for k, v in before.items()})
            assert all(after[name] - before[name] < GROWTH for name in before), (before, after)
            await system.stack.start("worker")
            async with asyncio.timeout(STEP_S):
                kept = sum(a.item_count for a in held)
                while (await system.client.job(job.job_id)).progress.items_succeeded < len(TEXTS) - kept:
                    await miser.offer(credits)
                    await miser.hear("desired")
            await miser.goodbye()
        async with asyncio.timeout(STEP_S):
            np.testing.assert_array_equal(await read(system, job.job_id), expected(TEXTS))


async def test_a_full_redis_refuses_jobs_until_its_results_are_read(tmp_path: Path) -> None:
    async with small(tmp_path) as system:
        (job,) = await system.client.submit_texts(TEXTS[:20_000], workload="hash-384", items_per_job=20_000)
        await system.fed_up()
        used = int((await system.redis.info("memory"))["used_memory"])
        await system.redis.config_set("maxmemory", int(used / 0.94))
        impatient = AsyncClient(
            system.stack.gateway.address, stack.APP_TOKEN, retry=RetryPolicy(retry_for_s=0.0, connect_for_s=0.0)
        )
        async with impatient, asyncio.timeout(STEP_S):
            while True:
                try:
                    await impatient.submit_texts([f"another {uuid.uuid4()}"], workload="hash-384")
                except Overloaded as error:
                    refusal = error
                    break
                await asyncio.sleep(0.2)
        assert refusal.reason == "BUFFER_FULL"
        assert refusal.retry_after_s is not None and refusal.retry_after_s > 0
        reading = asyncio.create_task(read(system, job.job_id))
        async with asyncio.timeout(STEP_S):
            accepted = await system.client.embed_texts(["one more"], workload="hash-384")
            np.testing.assert_array_equal(await reading, expected(TEXTS[:20_000]))
    np.testing.assert_array_equal(accepted.vectors, expected(["one more"]))


async def test_the_batch_that_everything_waits_behind_is_fed_though_redis_is_full(tmp_path: Path) -> None:
    """Its worker took it and was lost, while Redis filled up with the batches after it."""
    async with small(tmp_path, workers=0) as system:
        async with FakeWorker(system.stack.scheduler.address).session() as lost:
            await lost.offer(1)
            (job,) = await system.client.submit_texts(TEXTS, workload="hash-384", items_per_job=50_000)
            assert (await lost.assigned()).first_item == 0
            await lost.offer(1)
            await system.stack.start("worker")
            renew = asyncio.create_task(_renew(lost))
            await system.fed_up()
            renew.cancel()
        async with asyncio.timeout(STEP_S):
            vectors = await read(system, job.job_id)
    np.testing.assert_array_equal(vectors, expected(TEXTS))


async def _renew(session: object) -> None:
    while True:
        await session.offer(1)  # type: ignore[attr-defined]
        await asyncio.sleep(0.5)


async def test_what_nobody_reads_does_not_stop_the_others(tmp_path: Path) -> None:
    async with small(tmp_path) as system:
        (unread,) = await system.client.submit_texts(TEXTS, workload="hash-384", items_per_job=50_000)
        await system.fed_up()
        async with await another_app(system.stack) as other, asyncio.timeout(STEP_S):
            mine = [f"mine {n}" for n in range(12_000)]
            result = await other.embed_texts(mine, workload="hash-384", items_per_job=3_000)
        np.testing.assert_array_equal(result.vectors, expected(mine))
        async with asyncio.timeout(STEP_S):
            np.testing.assert_array_equal(await read(system, unread.job_id), expected(TEXTS))
        assert not await system.waited()


async def test_when_even_the_reserve_is_unread_the_largest_holder_gives_way(tmp_path: Path) -> None:
    async with small(tmp_path) as system:
        (unread,) = await system.client.submit_texts(TEXTS, workload="hash-384", items_per_job=50_000)
        await system.fed_up()
        for n in range(3):
            texts = [f"small {n} {m}" for m in range(2_000)]
            await system.client.submit_texts(texts, workload="hash-384", items_per_job=2_000)
            await system.fed_up()
        async with await another_app(system.stack) as other, asyncio.timeout(STEP_S):
            mine = [f"mine {n}" for n in range(2_000)]
            result = await other.embed_texts(mine, workload="hash-384")
        np.testing.assert_array_equal(result.vectors, expected(mine))
        assert await system.shed() > 0
        async with asyncio.timeout(STEP_S):
            np.testing.assert_array_equal(await read(system, unread.job_id), expected(TEXTS))
        assert not await system.waited()
