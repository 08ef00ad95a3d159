"""A failed batch that an operator requeues, on real services: what readers get, whether they were past it or not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from podium.common.v1 import item_pb2, job_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_runtime import auth
from tests.support import stack
from tests.support.fake_worker import STEP_S, FakeWorker

OPERATOR = auth.authorization(stack.OPERATOR_TOKEN)
APP = auth.authorization(stack.APP_TOKEN)

Results = grpc.aio.UnaryStreamCall[gateway_pb2.StreamResultsRequest, gateway_pb2.StreamResultsResponse]


@dataclass(frozen=True)
class Calls:
    """A client's and an operator's stubs."""

    gateway: gateway_pb2_grpc.GatewayServiceStub
    operator: operator_pb2_grpc.OperatorServiceStub

    async def submit(self, count: int) -> str:
        items = item_pb2.TextItems(items=[item_pb2.TextItem(text=f"text {n}") for n in range(count)])
        request = gateway_pb2.SubmitBatchRequest(request_id=str(uuid.uuid4()), workload="hash-384", texts=items)
        return (await self.gateway.SubmitBatch(request, metadata=APP)).job.job_id

    def read(self, job_id: str) -> Results:
        return self.gateway.StreamResults(gateway_pb2.StreamResultsRequest(job_id=job_id), metadata=APP)

    async def requeue_the_only_failure(self) -> None:
        (failure,) = (await self.operator.ListFailures(operator_pb2.ListFailuresRequest(), metadata=OPERATOR)).failures
        await self.operator.RequeueBatch(operator_pb2.RequeueBatchRequest(batch_id=failure.batch_id), metadata=OPERATOR)


@asynccontextmanager
async def calls(running: stack.Stack) -> AsyncIterator[Calls]:
    async with (
        grpc.aio.insecure_channel(running.gateway.address) as gateway,
        grpc.aio.insecure_channel(running.scheduler.address) as scheduler,
    ):
        yield Calls(gateway_pb2_grpc.GatewayServiceStub(gateway), operator_pb2_grpc.OperatorServiceStub(scheduler))


async def next_of(
    stream: Results,
) -> gateway_pb2.StreamResultsResponse:
    message = await stream.read()
    assert isinstance(message, gateway_pb2.StreamResultsResponse)
    return message


async def test_readers_before_it_get_the_new_outcome_and_readers_past_it_keep_the_failure(tmp_path: Path) -> None:
    async with (
        stack.running(tmp_path, workers=0) as running,
        calls(running) as call,
        FakeWorker(running.scheduler.address).session() as worker,
        asyncio.timeout(4 * STEP_S),
    ):
        await worker.offer(2)
        job_id = await call.submit(257)
        first, second = sorted([await worker.assigned(), await worker.assigned()], key=lambda a: a.first_item)
        await worker.fail(first, retryable=False, reason=job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY)
        await worker.hear("ack")
        past = call.read(job_id)
        failure = (await next_of(past)).failure
        assert (failure.first_item, failure.item_count) == (0, 256)
        await call.requeue_the_only_failure()
        await worker.finish(second)
        # It has credit for the requeued batch, which may come before the Ack.
        heard = [await worker.hear("ack", "assign") for _ in range(2)]
        assert (await next_of(past)).chunk.first_item == 256
        # The job is not over for this reader either before the batch has its new outcome.
        before = call.read(job_id)
        (again,) = [frame.assign for frame in heard if frame.HasField("assign")]
        assert (again.lease.batch_id, again.lease.attempt) == (first.lease.batch_id, 1)
        await worker.finish(again)
        await worker.hear("ack")
        assert [(await next_of(before)).chunk.first_item for _ in range(2)] == [0, 256]
        for reader in (past, before):
            job = (await next_of(reader)).end.job
            assert (job.state, job.progress.items_succeeded) == (job_pb2.JOB_STATE_COMPLETED, 257)
