"""Workers without models, many in one process: `python -m tests.bench.fleet ADDRESS WORKERS CREDITS HOLD_S`.

Each has a stream of its own, says Status at the cadence that Welcome asks for, holds each batch for HOLD_S seconds and
answers with a valid chunk that was made before. Says a line when all are connected; to each line on its standard input
it answers with what was done since the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc
import numpy as np
from google.protobuf import duration_pb2

from podium.common.v1 import result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2, worker_pb2_grpc
from podium_runtime import auth
from tests.bench import children
from tests.support import stack

WORKLOAD, DIMENSION = "hash-384", 384
STREAMS_PER_CHANNEL = 50
# Not all at once: a fleet that connects is not what is measured.
_TOGETHER = 25
_CONNECT_S = 240.0
_PAUSE_S = 0.5
_MAX_TURNS = 5_000
"""They go into one line of an answer."""
_VECTORS = np.full((1, DIMENSION), 0.05, dtype="<f4").tobytes()
_CRC = google_crc32c.value(_VECTORS)


@dataclass(slots=True)
class Tally:
    """What the workers of this process did. `turns_s`: from the end of a batch to the next one, in seconds."""

    batches: int = 0
    turns_s: list[float] = field(default_factory=list)
    streams_ended: int = 0

    def taken(self) -> dict[str, object]:
        """All of it, and begins anew."""
        turns_s = [round(t, 5) for t in self.turns_s]
        found = {"batches": self.batches, "turns_s": turns_s, "streams_ended": self.streams_ended}
        self.batches, self.turns_s, self.streams_ended = 0, [], 0
        return found


class Worker:
    """One stream."""

    def __init__(self, stub: worker_pb2_grpc.WorkerServiceStub, credits: int, hold_s: float, tally: Tally) -> None:
        self._stub = stub
        self._credits = credits
        self._hold_s = hold_s
        self._tally = tally
        self._in_hand: dict[int, worker_pb2.Lease] = {}
        self._ended: list[float] = []
        """When batches ended whose place has not been filled since."""
        self._outbox: asyncio.Queue[worker_pb2.WorkerFrame] = asyncio.Queue()
        self.connected = asyncio.Event()
        self._interval_s = 1.0

    async def run(self) -> None:
        """Until cancelled; opens another stream when one ends, as a worker does."""
        while True:
            try:
                await self._session()
            except (grpc.aio.AioRpcError, grpc.aio.InternalError):
                self._tally.streams_ended += 1
            # Not all at the same moment, as real ones do not.
            await asyncio.sleep(_PAUSE_S * (1 + 4 * random.random()))

    async def _session(self) -> None:
        self._in_hand, self._ended, self._outbox = {}, [], asyncio.Queue()
        device = worker_pb2.Device(uuid="cpu", name="bench")
        hello = worker_pb2.Hello(worker_id=str(uuid.uuid4()), backends=["hash"], workloads=[WORKLOAD], devices=[device])
        self._outbox.put_nowait(worker_pb2.WorkerFrame(hello=hello))
        call: Any = self._stub.Connect(metadata=auth.authorization(stack.JOIN_TOKEN))
        # Not a generator that gRPC reads from: one that waits for ever is left behind by every stream that ends.
        others = [asyncio.ensure_future(self._say_all(call))]
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                if frame.WhichOneof("frame") == "welcome":
                    self._interval_s = _seconds(frame.welcome.heartbeat_interval)
                    others.append(asyncio.ensure_future(self._beat()))
                    self.connected.set()
                else:
                    self._obey(frame)
            await _ended(call)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            call.cancel()

    def _obey(self, frame: worker_pb2.SchedulerFrame) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "desired":
            self._interval_s = _seconds(frame.desired.heartbeat_interval) or self._interval_s
        elif kind == "assign":
            self._begin(frame.assign)
        elif kind in ("ack", "cancel"):
            self._in_hand.pop(getattr(frame, kind).lease.batch_id, None)

    async def _say_all(self, call: Any) -> None:
        while True:
            await call.write(await self._outbox.get())

    def _begin(self, assign: worker_pb2.Assign) -> None:
        if self._ended:
            turn_s = time.monotonic() - self._ended.pop(0)
            if len(self._tally.turns_s) < _MAX_TURNS:
                self._tally.turns_s.append(turn_s)
        self._in_hand[assign.lease.batch_id] = assign.lease
        asyncio.get_running_loop().call_later(self._hold_s, self._finish, assign)

    def _finish(self, assign: worker_pb2.Assign) -> None:
        if assign.lease.batch_id not in self._in_hand:
            return
        chunk = result_pb2.ResultChunk(
            job_id=assign.job_id,
            first_item=assign.first_item,
            item_count=assign.item_count,
            vectors=_VECTORS,
            count=1,
            dimension=DIMENSION,
            dtype=workload_pb2.DTYPE_FLOAT32,
            crc32c=_CRC,
            batch_first_item=assign.first_item,
            last_in_batch=True,
            attempt=assign.lease.attempt,
        )
        done = worker_pb2.BatchDone(lease=assign.lease, chunk_count=1)
        done.compute_duration.FromNanoseconds(round(self._hold_s * 1e9))
        self._outbox.put_nowait(worker_pb2.WorkerFrame(chunk=worker_pb2.BatchChunk(lease=assign.lease, chunk=chunk)))
        self._outbox.put_nowait(worker_pb2.WorkerFrame(done=done))
        self._ended.append(time.monotonic())
        self._tally.batches += 1

    async def _beat(self) -> None:
        while True:
            self._outbox.put_nowait(worker_pb2.WorkerFrame(status=self._status()))
            await asyncio.sleep(self._interval_s)

    def _status(self) -> worker_pb2.Status:
        device = worker_pb2.DeviceStatus(
            state=worker_pb2.DEVICE_STATE_BUSY if self._in_hand else worker_pb2.DEVICE_STATE_READY,
            resident_workloads=[WORKLOAD],
            utilization_percent=50 + round(time.monotonic()) % 50,
        )
        offer = worker_pb2.WorkloadStatus(workload=WORKLOAD, credits=self._credits, items_per_second=100.0)
        return worker_pb2.Status(
            devices=[device], workloads=[offer], total_credits=self._credits, in_hand=list(self._in_hand.values())
        )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.ToNanoseconds() / 1e9


async def _ended(call: Any) -> None:
    """Raises what the stream has ended with."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(code, nothing, nothing, await call.details())


async def serve(address: str, workers: int, credits: int, hold_s: float) -> None:
    """Connects them and answers until standard input ends."""
    tally, made = Tally(), list[Worker]()
    lines = await _standard_input()
    async with contextlib.AsyncExitStack() as channels, asyncio.TaskGroup() as tasks:
        running = []
        for start in range(0, workers, STREAMS_PER_CHANNEL):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            for _ in range(min(STREAMS_PER_CHANNEL, workers - start)):
                made.append(Worker(stub, credits, hold_s, tally))
                running.append(tasks.create_task(made[-1].run()))
                if len(made) % _TOGETHER == 0:
                    await _connected(made)
        await _connected(made)
        children.say(connected=len(made))
        while await lines.readline():
            print(json.dumps(tally.taken()), flush=True)
        for task in running:
            task.cancel()


async def _connected(made: list[Worker]) -> None:
    async with asyncio.timeout(_CONNECT_S):
        for worker in made:
            await worker.connected.wait()


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
