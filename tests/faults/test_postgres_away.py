"""Postgres silent, restarted, or too busy: callers are told soon, work in hand waits, and nothing is computed again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import numpy as np
import psutil
import pytest

from podium_client import AsyncClient, errors
from podium_client.results import Embeddings
from podium_client.retry import RetryPolicy
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
TEXTS = [f"text {n}" for n in range(60_000)]
AWAY_S = 30.0
PROMPT_S = 4.0
ONCE = RetryPolicy(connect_for_s=0.0, retry_for_s=0.0)


@asynccontextmanager
async def replicated(directory: Path, **settings: str) -> AsyncIterator[stack.Stack]:
    """Two schedulers, one gateway, two workers."""
    async with stack.servers(directory, as_deployed=True) as running:
        running.environment |= {f"PODIUM_{k.upper()}": v for k, v in settings.items()}
        await asyncio.gather(running.start("scheduler"), running.start("scheduler"))
        found = [s.address for s in running.services if s.name == "scheduler"]
        running.environment["PODIUM_SCHEDULER_ADDRESS"] = ",".join(found)
        await asyncio.gather(running.start("gateway"), running.start("worker"), running.start("worker"))
        yield running


async def embed_while(running: stack.Stack, act: Callable[[], Awaitable[None]]) -> Embeddings:
    """Embeds all texts; something happens to the stack once a fifth has come back."""
    reached = asyncio.Event()

    def progress(call: object) -> None:
        if getattr(call, "items_done", 0) >= 0.2 * len(TEXTS):
            reached.set()

    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        embedding = asyncio.create_task(
            client.embed_texts(TEXTS, workload="hash-384", progress=progress, items_per_job=20_000, release=False)
        )
        await reached.wait()
        await act()
        return await embedding


def postgres_processes(running: stack.Stack) -> list[psutil.Process]:
    """The postmaster and all its children."""
    postmaster = psutil.Process(running.own_postgres.pid)
    return [postmaster, *postmaster.children(recursive=True)]


async def silent_for(running: stack.Stack, seconds: float, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Postgres stops in its tracks: every connection stays open, nothing answers."""
    stopped = postgres_processes(running)
    for process in stopped:
        process.suspend()
    try:
        until = time.monotonic() + seconds
        await meanwhile()
        await asyncio.sleep(until - time.monotonic())
    finally:
        for process in stopped:
            process.resume()


async def refused_soon(running: stack.Stack, limit_s: float = PROMPT_S) -> None:
    """Admission and reads say UNAVAILABLE with RetryInfo."""
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN, retry=ONCE) as client:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.submit_texts(["one more"], workload="hash-384"),
            lambda: anext(client.jobs()),
        ]
        for call in calls:
            began = time.monotonic()
            with pytest.raises(errors.Unavailable) as refused:
                await call()
            assert time.monotonic() - began < limit_s
            assert refused.value.retry_after_s is not None


async def attempts(running: stack.Stack) -> tuple[int, int]:
    """Batches in the ledger, and how many of them were computed more than once."""
    connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
    try:
        row = await connection.fetchrow("SELECT count(*), count(*) FILTER (WHERE attempt > 1) FROM batches")
    finally:
        await connection.close()
    return row[0], row[1]


def assert_exact(result: Embeddings) -> None:
    """Every text has exactly its own vector."""
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


def resident_bytes(running: stack.Stack) -> int:
    """Memory of the schedulers and the workers' front processes together."""
    services = [s for s in running.services if s.name in ("scheduler", "worker")]
    return sum(psutil.Process(s.process.pid).memory_info().rss for s in services)


async def test_postgres_is_silent_for_30_seconds_in_mid_job(tmp_path: Path) -> None:
    async with replicated(tmp_path) as running:
        grown = 0

        async def meanwhile() -> None:
            nonlocal grown
            # The first answer needs the watch to notice; after that nobody waits for it.
            await refused_soon(running)
            before = resident_bytes(running)
            for _ in range(10):
                await refused_soon(running, limit_s=2.0)
                await asyncio.sleep(1.5)
                grown = max(grown, resident_bytes(running) - before)

        result = await embed_while(running, lambda: silent_for(running, AWAY_S, meanwhile))
        batches, again = await attempts(running)
        assert [s.process.returncode for s in running.services] == [None] * 5
    assert_exact(result)
    # Nobody lost a lease: the outage ends no session, and every outcome waited for its commit.
    assert again == 0, f"{again} of {batches} batches were computed again"
    # What workers have in hand is bounded by their credits, and nothing new was assigned.
    assert grown < 64 << 20


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_postgres_restarts_in_mid_job(tmp_path: Path, how: signal.Signals) -> None:
    async with replicated(tmp_path) as running:

        async def restart() -> None:
            postgres = running.own_postgres
            port, pid = postgres.port, postgres.pid
            assert pid is not None
            os.kill(pid, how)
            await postgres.wait()
            await refused_soon(running)
            await postgres.stop()
            await postgres.start(port)

        result = await embed_while(running, restart)
        batches, again = await attempts(running)
    assert_exact(result)
    assert again == 0, f"{again} of {batches} batches were computed again"
