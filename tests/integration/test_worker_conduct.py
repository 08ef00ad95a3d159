"""Workers that deliver what cannot be, and workers that are to leave: what two replicas make of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_client import AsyncClient
from podium_runtime import auth
from tests.support import processes, stack
from tests.support.fake_worker import STEP_S, FakeSession, FakeWorker, chunk_of, rows_of

OPERATOR = auth.authorization(stack.OPERATOR_TOKEN)


@asynccontextmanager
async def replicas(directory: Path, **settings: str) -> AsyncIterator[stack.Stack]:
    """Two schedulers and a gateway; the workers are the test's."""
    async with stack.servers(directory) as running:
        running.environment |= {f"PODIUM_{k.upper()}": v for k, v in settings.items()}
        await asyncio.gather(running.start("scheduler"), running.start("scheduler"))
        await running.start("gateway")
        yield running


@asynccontextmanager
async def operator(address: str) -> AsyncIterator[operator_pb2_grpc.OperatorServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield operator_pb2_grpc.OperatorServiceStub(channel)


async def desired(session: FakeSession, *, check: bool = False, drain: bool = False) -> worker_pb2.Desired:
    """A Desired that asks for this; one follows each Status."""
    while True:
        await session.offer(1)
        found = (await session.hear("desired")).desired
        if bool(found.check) >= check and found.drain >= drain:
            return found


async def reason_of(stub: operator_pb2_grpc.OperatorServiceStub, worker: FakeWorker, session: FakeSession) -> str:
    """Why a worker is quarantined, as operators see it after a Status that came later than this call."""
    found = ""
    for _ in range(3):
        await desired(session)
        request = operator_pb2.GetWorkerRequest(worker_id=worker.worker_id)
        found = (await stub.GetWorker(request, metadata=OPERATOR)).worker.quarantine_reason
    return found


async def test_a_worker_that_sends_nonsense_is_quarantined_until_its_canaries_pass(tmp_path: Path) -> None:
    async with replicas(tmp_path, quarantine_refusals="2", quarantine_s="2") as running:
        first, second = (s.address for s in running.services if s.name == "scheduler")
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, operator(second) as stub:
            corrupt, sound = FakeWorker(first), FakeWorker(first)
            async with corrupt.session() as bad, asyncio.timeout(STEP_S * 4):
                await client.submit_texts([f"text {n}" for n in range(4)], workload="hash-384")
                await bad.offer(1)
                assign = await bad.assigned()
                await bad.send_chunk(assign, chunk_of(assign, np.full((4, 384), np.nan, dtype="<f4")))
                assert (await bad.hear("cancel")).cancel.reason == worker_pb2.CANCEL_REASON_RESULT_REFUSED
                await bad.hear("ack")
                # One refusal is noise: it is given the next attempt, too.
                assign = await bad.assigned()
                await bad.send_chunk(assign, chunk_of(assign, rows_of(assign)[:3]))
                assert (await bad.hear("cancel")).cancel.reason == worker_pb2.CANCEL_REASON_RESULT_REFUSED
                await bad.hear("ack")
                reason = await reason_of(stub, corrupt, bad)
                assert reason.startswith("2 of its results were refused, the last one because 3 rows and 0 errors")
                assert await processes.metric(running.scheduler.metrics, "podium_quarantines_total") == 1
                async with sound.session() as good:
                    await good.offer(1)
                    assign = await good.assigned()
                    assert assign.lease.attempt == 3
                    await good.finish(assign)
                    await good.hear("ack")
                    await good.goodbye()
            # A new session, at the other replica: still nothing, and only the passed check brings it back.
            corrupt = corrupt.at(second)
            async with corrupt.session() as again, asyncio.timeout(STEP_S * 4):
                await client.submit_texts(["one more"], workload="hash-384")
                wanted = await desired(again, check=True)
                offer = worker_pb2.WorkloadStatus(workload="hash-384", credits=1)
                status = worker_pb2.Status(total_credits=1, workloads=[offer], checked=wanted.check)
                await again.say(worker_pb2.WorkerFrame(status=status))
                assign = await again.assigned()
                await again.finish(assign)
                await again.hear("ack")
                assert await reason_of(stub, corrupt, again) == ""


@pytest.mark.parametrize("asked", ["the replica of its stream", "the other replica"])
async def test_a_worker_is_drained_through_either_replica(tmp_path: Path, asked: str) -> None:
    async with replicas(tmp_path) as running:
        first, second = (s.address for s in running.services if s.name == "scheduler")
        asked_at = first if asked == "the replica of its stream" else second
        worker = FakeWorker(first)
        async with (
            AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
            operator(asked_at) as stub,
            worker.session() as session,
            asyncio.timeout(STEP_S * 4),
        ):
            await session.offer(5)
            await client.submit_texts(["in hand"], workload="hash-384")
            held = await session.assigned()
            await stub.DrainWorker(operator_pb2.DrainWorkerRequest(worker_id=worker.worker_id), metadata=OPERATOR)
            await desired(session, drain=True)
            # It still says that it would take more; it gets nothing more, and what it holds stays its own.
            await client.submit_texts(["not for this one"], workload="hash-384")
            await session.offer(5)
            other = FakeWorker(first)
            async with other.session() as next_one:
                await next_one.offer(1)
                assert (await next_one.assigned()).lease.batch_id != held.lease.batch_id
                await next_one.goodbye()
            await session.finish(held)
            assert (await session.hear("ack")).ack.lease == held.lease
            await session.goodbye()
