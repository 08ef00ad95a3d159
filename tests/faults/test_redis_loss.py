"""Redis restarts, forgets, fills up and falls silent in the middle of a job: every item comes, exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import redis.asyncio as redis

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_embedded import EmbeddedRedis
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
SILENCE_S = 30.0
TEXTS = [f"text {n}" for n in range(60_000)]


@asynccontextmanager
async def client_of(server: EmbeddedRedis) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(server.url) as client:
        yield client


async def crash(server: EmbeddedRedis) -> None:
    """kill -9 of the server itself; its port stays ours to take again."""
    async with client_of(server) as client:
        pid = int((await client.info("server"))["process_id"])
    os.kill(pid, signal.SIGKILL)
    await server.wait()
    await server.stop()


async def embed_while(
    running: stack.Stack, act: Callable[[], Awaitable[None]], *, at: float = 0.3, read: bool = True
) -> Embeddings:
    """Embeds all texts; once the given share is computed (and read, unless told otherwise), `act` happens."""
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        jobs = await client.submit_texts(TEXTS, workload="hash-384")
        reached = asyncio.Event()

        def progress(call: object) -> None:
            if getattr(call, "items_done", 0) >= at * len(TEXTS):
                reached.set()

        if not read:
            await computed(client, [job.job_id for job in jobs], round(at * len(TEXTS)))
            await act()
        embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384", progress=progress))
        if read:
            await reached.wait()
            await act()
        return await embedding


async def computed(client: AsyncClient, job_ids: list[str], items: int) -> None:
    """Waits until that many items of the jobs are computed."""
    async with asyncio.timeout(STEP_S):
        while True:
            if sum([(await client.job(j)).progress.items_succeeded for j in job_ids]) >= items:
                return
            await asyncio.sleep(0.05)


async def logged(running: stack.Stack, event: str) -> None:
    """Waits until the scheduler has said so."""
    async with asyncio.timeout(STEP_S):
        while True:
            if event in await asyncio.to_thread(running.scheduler.log.read_text):
                return
            await asyncio.sleep(0.1)


def assert_exact(result: Embeddings) -> None:
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


async def test_redis_restarts_with_what_it_had(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:

        async def restart() -> None:
            port = running.redis.port
            await running.redis.stop()
            await running.redis.start(port)

        assert_exact(await embed_while(running, restart))


async def test_redis_crashes_and_comes_back_empty(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:

        async def lose() -> None:
            port = running.redis.port
            await crash(running.redis)
            (running.redis.folder / "appendonly.aof").unlink()
            await running.redis.start(port)

        assert_exact(await embed_while(running, lose))


async def test_redis_crashes_and_has_lost_the_last_results_but_not_its_epoch(tmp_path: Path) -> None:
    """appendfsync everysec: the ledger has acknowledged results that the file does not have."""
    async with stack.running(tmp_path) as running:
        file = running.redis.folder / "appendonly.aof"
        kept = 0

        async def forget() -> None:
            port = running.redis.port
            async with client_of(running.redis) as client:
                epoch = await client.get("podium:epoch")
            await crash(running.redis)
            os.truncate(file, kept)
            await running.redis.start(port)
            async with client_of(running.redis) as client:
                assert await client.get("podium:epoch") == epoch
                assert len(await client.keys("podium:index:*")) >= 1, "some results are still there"

        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
            first = await client.submit_texts(TEXTS[:20_000], workload="hash-384", items_per_job=20_000)
            await computed(client, [first[0].job_id], 20_000)
            kept = file.stat().st_size
            result = await embed_while(running, forget, read=False, at=0.5)
        await logged(running, "lost_results_recomputed")
        assert_exact(result)


async def test_one_result_is_lost_and_the_reader_who_waits_for_it_gets_it(tmp_path: Path) -> None:
    """No restart, no new epoch: only the reader can notice."""
    async with stack.running(tmp_path) as running:

        async def lose_some() -> None:
            async with client_of(running.redis) as client:
                for key in await client.keys("podium:index:*"):
                    items = sorted(int(field) for field in await client.hkeys(key))
                    await client.hdel(key, *items[len(items) // 2 :: 7])

        assert_exact(await embed_while(running, lose_some, read=False, at=1.0))
        await logged(running, "lost_results_recomputed")


async def test_keys_that_were_evicted_are_computed_again(tmp_path: Path) -> None:
    """A wrong maxmemory-policy takes a key here and a key there: a job's chunks, another's index."""
    async with stack.running(tmp_path) as running:

        async def evict() -> None:
            async with client_of(running.redis) as client:
                indexes, chunks = await client.keys("podium:index:*"), await client.keys("podium:chunks:*")
                await client.delete(sorted(indexes)[0], sorted(chunks)[-1])

        assert_exact(await embed_while(running, evict, read=False, at=1.0))
        await logged(running, "lost_results_recomputed")


async def test_redis_is_silent_for_half_a_minute(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:

        async def freeze() -> None:
            async with client_of(running.redis) as client:
                pid = int((await client.info("server"))["process_id"])
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(SILENCE_S)
            finally:
                os.kill(pid, signal.SIGCONT)

        assert_exact(await embed_while(running, freeze))


async def test_redis_runs_out_of_memory_and_gets_it_back(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running:

        async def starve() -> None:
            async with client_of(running.redis) as client:
                await client.config_set("maxmemory", 1 << 20)
                await logged(running, "completion_waits")
                await client.config_set("maxmemory", 1 << 30)

        assert_exact(await embed_while(running, starve, at=0.05))
