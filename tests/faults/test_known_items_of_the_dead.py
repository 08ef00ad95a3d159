"""Identical items are computed once although workers die of them, or with them in their hands."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from podium.gateway.v1 import gateway_pb2
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack
from tests.support.deduplication_rig import BEARER, check, results, stub_of, submit
from tests.support.metrics import metric

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0


async def test_poison_fails_alone_and_so_do_its_twins(tmp_path: Path) -> None:
    texts = ["a", "POISON", "b", "POISON"]
    async with (
        stack.running(tmp_path, fault_poison="POISON") as running,
        stub_of(running) as stub,
        asyncio.timeout(STEP_S),
    ):
        for job_id in await asyncio.gather(submit(stub, texts), submit(stub, texts)):
            items: dict[int, bytes | None] = {}
            request = gateway_pb2.StreamResultsRequest(job_id=job_id)
            async for message in stub.StreamResults(request, metadata=BEARER):
                failure, chunk = message.failure, message.chunk
                items |= dict.fromkeys(range(failure.first_item, failure.first_item + failure.item_count))
                for at in range(chunk.item_count):
                    items[chunk.first_item + at] = chunk.vectors[at * 1536 : (at + 1) * 1536]
            wanted = [None if t == "POISON" else hash_vectors([t.encode()], 384).tobytes() for t in texts]
            assert [items[n] for n in range(len(texts))] == wanted


async def test_a_killed_workers_items_are_computed_by_another(tmp_path: Path) -> None:
    texts = [f"text {n % 2_000}" for n in range(6_000)]
    async with (
        stack.running(tmp_path, workers=2, fault_delay_s="0.02") as running,
        stub_of(running) as stub,
        asyncio.timeout(STEP_S),
    ):
        jobs = [await submit(stub, texts), await submit(stub, texts[::-1])]
        reading = [asyncio.create_task(results(stub, job_id)) for job_id in jobs]
        while await metric(running.scheduler.metrics, r"podium_known_items_remembered_total") < 300:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await running.workers[0].stop(signal.SIGKILL)
        for read, wanted in zip(reading, (texts, texts[::-1]), strict=True):
            check((await read)[0], wanted)
