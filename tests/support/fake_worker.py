"""A worker by hand: speaks WorkerService frame by frame, so that a test decides what is said and when."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import google_crc32c
import grpc
import numpy as np

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2, worker_pb2_grpc
from podium_runtime import auth
from tests.support import stack

STEP_S = 15.0


class FakeWorker:
    """One worker process' worth of identity; `session()` opens streams for it."""

    def __init__(self, address: str) -> None:
        self.worker_id = str(uuid.uuid4())
        self._address = address

    def at(self, address: str) -> FakeWorker:
        """The same worker, to connect to another replica."""
        moved = FakeWorker(address)
        moved.worker_id = self.worker_id
        return moved

    @asynccontextmanager
    async def session(
        self, in_hand: Sequence[worker_pb2.Lease] = (), devices: Sequence[worker_pb2.Device] = ()
    ) -> AsyncIterator[FakeSession]:
        """A stream after Hello and Welcome; it breaks at the end unless the test said Goodbye."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Connect(metadata=auth.authorization(stack.JOIN_TOKEN))
            session = FakeSession(call)
            hello = worker_pb2.Hello(worker_id=self.worker_id, backends=["hash"], in_hand=in_hand, devices=devices)
            await session.say(worker_pb2.WorkerFrame(hello=hello))
            session.welcome = (await session.hear("welcome")).welcome
            try:
                yield session
            finally:
                call.cancel()


class FakeSession:
    """One stream."""

    welcome: worker_pb2.Welcome

    def __init__(self, call: grpc.aio.StreamStreamCall[worker_pb2.WorkerFrame, worker_pb2.SchedulerFrame]) -> None:
        self._call = call

    async def say(self, frame: worker_pb2.WorkerFrame) -> None:
        """Sends one frame."""
        async with asyncio.timeout(STEP_S):
            await self._call.write(frame)

    async def hear(self, *kinds: str) -> worker_pb2.SchedulerFrame:
        """The next frame, of one of these kinds; Desired frames are passed over unless asked for."""
        async with asyncio.timeout(STEP_S):
            while True:
                frame = await self._call.read()
                assert isinstance(frame, worker_pb2.SchedulerFrame), f"the stream ended while waiting for {kinds}"
                found = frame.WhichOneof("frame")
                if found in kinds:
                    return frame
                assert found == "desired", f"heard {found} while waiting for {kinds}"

    async def ended(self) -> grpc.StatusCode:
        """Waits for the stream's end."""
        async with asyncio.timeout(STEP_S):
            while await self._call.read() is not grpc.aio.EOF:
                pass
            return await self._call.code()

    async def offer(self, credits: int, workload: str = "hash-384") -> None:
        """Says Status with this much credit."""
        status = worker_pb2.Status(
            total_credits=credits, workloads=[worker_pb2.WorkloadStatus(workload=workload, credits=credits)]
        )
        await self.say(worker_pb2.WorkerFrame(status=status))

    async def assigned(self) -> worker_pb2.Assign:
        """The next batch."""
        return (await self.hear("assign")).assign

    async def finish(self, assign: worker_pb2.Assign, rows: np.ndarray | None = None) -> None:
        """Sends a whole result in one chunk; by default each row holds its item's index."""
        if rows is None:
            rows = rows_of(assign)
        await self.send_chunk(assign, chunk_of(assign, rows))
        await self.say(worker_pb2.WorkerFrame(done=worker_pb2.BatchDone(lease=assign.lease, chunk_count=1)))

    async def send_chunk(self, assign: worker_pb2.Assign, chunk: result_pb2.ResultChunk) -> None:
        """Sends one chunk."""
        await self.say(worker_pb2.WorkerFrame(chunk=worker_pb2.BatchChunk(lease=assign.lease, chunk=chunk)))

    async def fail(
        self,
        assign: worker_pb2.Assign,
        *,
        retryable: bool = True,
        handed_back: bool = False,
        reason: job_pb2.BatchFailureReason = job_pb2.BATCH_FAILURE_REASON_EXECUTOR_CRASHED,
    ) -> None:
        """Gives a batch up."""
        failed = worker_pb2.BatchFailed(
            lease=assign.lease, reason=reason, message="on purpose", retryable=retryable, handed_back=handed_back
        )
        await self.say(worker_pb2.WorkerFrame(failed=failed))

    async def goodbye(self) -> None:
        """Leaves."""
        await self.say(worker_pb2.WorkerFrame(goodbye=worker_pb2.Goodbye(reason="test")))
        await self.ended()


def rows_of(assign: worker_pb2.Assign, dimension: int = 384) -> np.ndarray:
    """float32 (items, dimension): each row holds its item's index in the job."""
    items = np.arange(assign.first_item, assign.first_item + assign.item_count, dtype="<f4")
    return np.repeat(items[:, None], dimension, axis=1)


def chunk_of(assign: worker_pb2.Assign, rows: np.ndarray) -> result_pb2.ResultChunk:
    """One chunk that covers a whole batch."""
    vectors = rows.astype("<f4").tobytes()
    return result_pb2.ResultChunk(
        job_id=assign.job_id,
        first_item=assign.first_item,
        item_count=assign.item_count,
        vectors=vectors,
        count=len(rows),
        dimension=rows.shape[1],
        dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(vectors),
        batch_first_item=assign.first_item,
        last_in_batch=True,
        attempt=assign.lease.attempt,
    )


def texts_of(assign: worker_pb2.Assign) -> list[str]:
    """The batch's texts."""
    assert assign.payload_encoding == item_pb2.PAYLOAD_ENCODING_IDENTITY
    return [item.text for item in item_pb2.TextItems.FromString(assign.payload).items]
