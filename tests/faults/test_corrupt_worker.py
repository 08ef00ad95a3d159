"""One worker of three delivers what cannot be: its results go nowhere, it is out of service where operators can see it,
and the job is exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_client import AsyncClient
from podium_runtime import auth
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import processes, stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP_S = 200.0
TEXTS = [f"text {n}" for n in range(20_000)]
EXPECTED = hash_vectors([text.encode() for text in TEXTS], 384)


async def workers(address: str) -> AsyncGenerator[Sequence[operator_pb2.Worker], None]:
    """What operators see, again and again."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = operator_pb2_grpc.OperatorServiceStub(channel)
        while True:
            request = operator_pb2.ListWorkersRequest()
            listed = await stub.ListWorkers(request, metadata=auth.authorization(stack.OPERATOR_TOKEN))
            yield listed.workers
            await asyncio.sleep(0.05)


async def until_connected(address: str, count: int) -> None:
    """Waits until so many workers have their sessions."""
    async with aclosing(workers(address)) as looks:
        async for seen in looks:
            if len(seen) == count:
                return


async def until_out_of_service(address: str, corrupt: str) -> operator_pb2.Worker:
    """Waits until operators see one worker out of service."""
    async with aclosing(workers(address)) as looks:
        async for seen in looks:
            for worker in seen:
                faulted = any(d.state == worker_pb2.DEVICE_STATE_FAULTED for d in worker.status.devices)
                if (faulted and corrupt == "nan") or worker.quarantine_reason:
                    return worker
    raise AssertionError("unreachable")


@pytest.mark.parametrize("corrupt", ["nan", "flip", "count"])
async def test_one_corrupt_worker_among_three(tmp_path: Path, corrupt: str) -> None:
    async with stack.running(tmp_path, workers=2) as running:
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
            broken = await running.start("worker", fault_corrupt=corrupt)
            # Else the others might have done everything before it is there.
            await until_connected(running.scheduler.address, 3)
            out = asyncio.create_task(until_out_of_service(running.scheduler.address, corrupt))
            # While its executor starts, the others may do everything but the little that it has in hand.
            while not out.done():
                result = await client.embed_texts(TEXTS, workload="hash-384")
                assert result.ok.all()
                np.testing.assert_array_equal(result.vectors, EXPECTED)
            seen = await out
        if corrupt == "nan":
            # Its own check finds it, so that no result has to be refused.
            reason = seen.status.devices[0].reason
            assert reason == "The canary of workload 'hash-384' failed: its vectors hold a NaN or an infinity"
            assert await processes.metric(broken.metrics, "podium_worker_canaries_total", outcome="failed") >= 1
        else:
            # The damage is done after all of the worker's own checks.
            assert seen.quarantine_reason.startswith("3 of its results were refused")
            assert await processes.metric(running.scheduler.metrics, "podium_quarantines_total") >= 1
