"""Executors that stand still: stopped, or stuck in a text or a load. They are replaced, the stream stays, nothing is
lost, and only who is to blame is blamed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from podium_client import AsyncClient
from podium_client.embedding import CallProgress
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
MARKER = "never returns"
TEXTS = [f"text {n}" for n in range(6_000)]
LIMIT_S = "3"


async def test_a_stopped_executor_is_replaced_without_dropping_the_stream(tmp_path: Path) -> None:
    async with stack.running(tmp_path, fault_delay_s="0.01", stillness_limit_s=LIMIT_S) as running:
        (worker,) = running.workers
        reached = asyncio.Event()

        def progress(call: CallProgress) -> None:
            if call.items_done:
                reached.set()

        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            embedding = asyncio.create_task(client.embed_texts(TEXTS, workload="hash-384", progress=progress))
            await reached.wait()
            (executor,) = processes.children(worker.process.pid)
            await processes.freeze(executor)
            result = await embedding
        assert await processes.metric(worker.metrics, "podium_worker_executors_hung_total") >= 1
        assert await processes.metric(worker.metrics, "podium_worker_sessions_total") == 1
        assert executor not in processes.children(worker.process.pid)
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in TEXTS], 384))


async def test_an_item_that_never_returns_ends_as_one_typed_error(tmp_path: Path) -> None:
    texts = [f"text {n}" + (f" {MARKER}" if n == 21 else "") for n in range(32)]
    async with stack.running(tmp_path, fault_hang=MARKER, stillness_limit_s=LIMIT_S) as running:
        (worker,) = running.workers
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            result = await client.embed_texts(texts, workload="hash-384", on_error="return")
        hung = await processes.metric(worker.metrics, "podium_worker_executors_hung_total")
        assert await processes.metric(worker.metrics, "podium_worker_sessions_total") == 1
    assert [(e.index, e.reason) for e in result.errors] == [(21, "EXECUTOR_HUNG")]
    assert result.errors[0].message == "this item alone brings the process that computes it to a standstill"
    expected = hash_vectors([t.encode() for t in texts], 384)
    expected[21] = 0
    np.testing.assert_array_equal(result.vectors, expected)
    # log2(32) halvings, and the item alone twice.
    assert 1 <= hung <= 7


async def test_a_batch_much_slower_than_the_limit_is_left_alone(tmp_path: Path) -> None:
    # 256 items in micro-batches of 16, each half a second: 8 s for a batch.
    async with stack.running(tmp_path, fault_delay_s="0.5", stillness_limit_s=LIMIT_S) as running:
        (worker,) = running.workers
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            result = await client.embed_texts(TEXTS[:256], workload="hash-384")
        assert await processes.metric(worker.metrics, "podium_worker_executor_restarts_total") == 0
    assert result.ok.all()


async def test_a_load_that_hangs_fails_alone_and_the_device_s_other_workloads_go_on(tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY)
    async with stack.running(
        tmp_path, fault_hang="stuck", unservable_patience_s="1", registry=str(registry)
    ) as running:
        (worker,) = running.workers
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            (stuck,) = await client.submit_texts(TEXTS[:10], workload="stuck")
            async for job in client.watch(stuck.job_id):
                if job.state == "RUNNING":
                    break
            fine = await client.embed_texts(TEXTS[:1_000], workload="fine")
            lost = await client.fetch(stuck.job_id, on_error="return")
        assert await processes.metric(worker.metrics, "podium_worker_sessions_total") == 1
    assert fine.ok.all()
    assert {e.reason for e in lost.errors} == {"MODEL_UNAVAILABLE"}
    assert "was not loaded within 3 s" in lost.errors[0].message


_HASH = """
    description: For a test
    modality: text
    dimension: 8
    limits: {max_text_bytes: 1KiB}
    batch: {max_items: 64, max_bytes: 64KiB}
    model: {backend: hash, name: podium/hash, revision: "1", pooling: none, normalized: false}
    needs: {load_timeout: 3s}
"""
REGISTRY = f"workloads:\n  stuck:{_HASH}  fine:{_HASH}"
