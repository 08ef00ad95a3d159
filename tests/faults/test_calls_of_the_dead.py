"""Interactive calls whose worker dies with them, by them, or answers nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import numpy as np
import pytest

from podium_client import AsyncClient
from podium_runtime import errors
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import embed_calls, processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

STEP_S = 90.0
POISON = "kills"


async def test_a_call_that_kills_its_executor_ends_with_its_caller(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, workers=2, fault_poison=POISON) as running,
        embed_calls.caller(running) as caller,
        asyncio.timeout(STEP_S),
    ):
        await _everywhere_warm(running)
        with pytest.raises(errors.Unavailable) as caught:
            await caller.embed([f"this {POISON}"])
        assert (caught.value.reason, caught.value.message[:9]) == ("WORKER_LOST", "2 workers")
        await caller.warm()
        await caller.embed(["alive"])


async def test_a_call_whose_worker_is_killed_is_answered_by_another(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, workers=2, fault_delay_s="2") as running,
        embed_calls.caller(running) as caller,
        asyncio.timeout(STEP_S),
    ):
        await _everywhere_warm(running)
        # One for each worker, and each takes its time.
        calls = [asyncio.create_task(caller.embed([f"call {n}"], timeout_s=60.0)) for n in range(2)]
        await _in_flight(running, 2)
        await running.workers[0].stop(signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        for number, answer in enumerate(answers):
            expected = hash_vectors([f"call {number}".encode()], 384)
            np.testing.assert_array_equal(embed_calls.rows(answer), expected)


async def test_a_batch_that_kills_is_found_out_although_calls_never_cease(tmp_path: Path) -> None:
    """With calls on the device nobody is accused; so it gets none the next time."""
    async with (
        stack.running(tmp_path, fault_poison=POISON, fault_delay_s="0.05") as running,
        embed_calls.caller(running) as caller,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        asyncio.timeout(STEP_S),
    ):
        await caller.warm()
        calls = asyncio.create_task(_calls_without_end(caller))
        try:
            texts = [f"text {n}" for n in range(8)] + [f"it {POISON}"]
            found = await client.embed_texts(texts, workload="hash-384", on_error="return")
        finally:
            calls.cancel()
        assert [(error.index, error.reason) for error in found.errors] == [(8, "EXECUTOR_CRASHED")]
        assert found.ok[:8].all()


async def _calls_without_end(caller: embed_calls.Caller) -> None:
    """Some always wait; what becomes of them is their own business."""

    async def one() -> None:
        while True:
            with contextlib.suppress(errors.PodiumError):
                await caller.embed(["a call"], timeout_s=5.0)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(one())


async def test_a_worker_whose_answers_are_wrong_is_not_believed(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, fault_corrupt="flip", quarantine_refusals="2") as running,
        embed_calls.caller(running) as caller,
        asyncio.timeout(STEP_S),
    ):
        reasons: list[str] = []
        while len(reasons) < 2 or reasons[-1] == "WORKER_LOST":
            with pytest.raises(errors.Unavailable) as caught:
                await caller.embed(["a"])
            if caught.value.reason == "WORKER_LOST" or "WORKER_LOST" in reasons:
                reasons.append(caught.value.reason)
            await asyncio.sleep(0.05)
        # Two refusals, and it is quarantined: it gets no calls either.
        assert reasons == ["WORKER_LOST", "WORKER_LOST", "NO_WARM_WORKER"]


async def _in_flight(running: stack.Stack, count: int) -> None:
    """Until so many calls are at the scheduler."""
    while True:
        now = await processes.metric(running.scheduler.metrics, "podium_scheduler_embed_calls")
        if now >= count:
            return


async def _everywhere_warm(running: stack.Stack) -> None:
    """Small jobs go to all workers alike, and each loads the model."""
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
        for worker in running.workers:
            while not await processes.metric(worker.metrics, "podium_worker_model_loads_total", outcome="loaded"):
                jobs = (client.embed_texts([f"text {n}"], workload="hash-384") for n in range(4))
                await asyncio.gather(*jobs)
