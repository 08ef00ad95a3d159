"""kill -9 of each kind of process in the middle of a large job, with replicas: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import redis.asyncio as redis

from podium_client import AsyncClient
from podium_client.results import Embeddings
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 240.0
TEXTS = [f"text {n}" for n in range(100_000)]


@asynccontextmanager
async def replicated(directory: Path) -> AsyncIterator[stack.Stack]:
    """Two schedulers, two gateways, three workers."""
    async with stack.servers(directory) as running:
        await asyncio.gather(running.start("scheduler"), running.start("scheduler"))
        running.environment["PODIUM_SCHEDULER_ADDRESS"] = addresses(running, "scheduler")
        starts = [running.start("gateway") for _ in range(2)] + [running.start("worker") for _ in range(3)]
        await asyncio.gather(*starts)
        yield running


def addresses(running: stack.Stack, name: str) -> str:
    """Where all services of a kind listen, as settings take it."""
    return ",".join(s.address for s in running.services if s.name == name)


async def embed_while(running: stack.Stack, act: Callable[[], object], at: float = 0.3) -> Embeddings:
    """Embeds all texts; once the given share has come back, `act` happens to the stack."""
    reached = asyncio.Event()

    def progress(call: object) -> None:
        if getattr(call, "items_done", 0) >= at * len(TEXTS):
            reached.set()

    async with AsyncClient(addresses(running, "gateway"), stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384", progress=progress))
        await reached.wait()
        acted = act()
        if asyncio.iscoroutine(acted):
            await acted
        return await embedding


def assert_exact(result: Embeddings) -> None:
    """Every text has exactly its own vector."""
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


@pytest.mark.parametrize("kind", ["worker", "gateway", "scheduler"])
async def test_one_process_of_a_kind_is_killed(tmp_path: Path, kind: str) -> None:
    async with replicated(tmp_path) as running:
        victim = next(s for s in running.services if s.name == kind)
        result = await embed_while(running, lambda: victim.stop(signal.SIGKILL))
    assert_exact(result)


async def test_both_schedulers_are_killed_and_one_comes_back(tmp_path: Path) -> None:
    async with replicated(tmp_path) as running:
        schedulers = [s for s in running.services if s.name == "scheduler"]

        async def kill_and_restart() -> None:
            await asyncio.gather(*(s.stop(signal.SIGKILL) for s in schedulers))
            await running.start("scheduler", scheduler_listen=schedulers[0].address)

        result = await embed_while(running, kill_and_restart)
    assert_exact(result)


async def test_every_worker_is_killed_and_new_ones_come(tmp_path: Path) -> None:
    async with replicated(tmp_path) as running:

        async def kill_and_restart() -> None:
            await asyncio.gather(*(s.stop(signal.SIGKILL) for s in running.workers))
            await running.start("worker")

        result = await embed_while(running, kill_and_restart)
    assert_exact(result)


async def test_redis_loses_everything(tmp_path: Path) -> None:
    async with replicated(tmp_path) as running:

        async def flush() -> None:
            client = redis.Redis.from_url(running.redis.url)
            await client.flushall()
            await client.aclose()

        result = await embed_while(running, flush)
    assert_exact(result)
