"""Work that nobody wants any more is taken out of the device within a second: cancelled, or past its deadline; with the
worker's stream at the replica that was told, or at the other one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from podium_client import AsyncClient
from tests.support import processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 120.0
DELAY_S = 0.25
MICROBATCH = 16
# Of the 256 items of a batch: what a device computes within the second that a cancellation has, the micro-batch that
# it is in, and the half second by which its count is late.
BOUND = round(1.5 / DELAY_S + 1) * MICROBATCH
COMPUTED = "podium_worker_items_computed_total"
TEXTS = [f"text {n}" for n in range(10_000)]


@asynccontextmanager
async def slow(directory: Path, *, apart: bool) -> AsyncIterator[tuple[stack.Stack, stack.Service]]:
    """A worker that takes a minute for these texts; `apart`: its stream is at another replica than the gateway's."""
    async with stack.servers(directory) as running:
        first = await running.start("scheduler")
        own = await running.start("scheduler") if apart else first
        gateway = running.start("gateway", scheduler_address=first.address)
        worker = running.start("worker", scheduler_address=own.address, fault_delay_s=str(DELAY_S))
        _, started = await asyncio.gather(gateway, worker)
        yield running, started


async def until(worker: stack.Service, name: str, least: float, **labels: str) -> None:
    """Waits until a metric has reached a value."""
    while await processes.metric(worker.metrics, name, **labels) < least:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("apart", [False, True], ids=["the same replica", "the other replica"])
async def test_a_cancelled_batch_leaves_the_device_within_a_second(tmp_path: Path, apart: bool) -> None:
    async with slow(tmp_path, apart=apart) as (running, worker):
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            job = await client.submit(TEXTS, workload="hash-384")
            await until(worker, COMPUTED, 1)
            before = await processes.metric(worker.metrics, COMPUTED)
            await client.cancel(job.job_id)
            await assert_dropped(worker, before)
            await assert_free(client, worker)


@pytest.mark.parametrize("apart", [False, True], ids=["the same replica", "the other replica"])
async def test_a_batch_past_its_deadline_leaves_the_device_within_a_second(tmp_path: Path, apart: bool) -> None:
    async with slow(tmp_path, apart=apart) as (running, worker):
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            job = await client.submit(TEXTS, workload="hash-384", completion_window_s=6)
            async for state in client.watch(job.job_id):
                if state.state not in ("PENDING", "RUNNING"):
                    break
            assert state.state == "EXPIRED"
            before = await processes.metric(worker.metrics, COMPUTED)
            await assert_dropped(worker, before)
            await assert_free(client, worker)


async def assert_dropped(worker: stack.Service, before: float) -> None:
    """The batch on the device is stopped, soon enough, and those behind it are not begun."""
    await until(worker, "podium_worker_batches_total", 1, outcome="dropped")
    assert await processes.metric(worker.metrics, COMPUTED) - before <= BOUND


async def assert_free(client: AsyncClient, worker: stack.Service) -> None:
    """The next job is computed, and nothing of the old one with it."""
    before = await processes.metric(worker.metrics, COMPUTED)
    await client.embed_texts(TEXTS[:MICROBATCH], workload="hash-384")
    assert await processes.metric(worker.metrics, COMPUTED) == before + MICROBATCH
