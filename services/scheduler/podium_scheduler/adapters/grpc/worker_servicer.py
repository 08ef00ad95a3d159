"""WorkerService: one Connect call is one life of a worker's session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from google.protobuf import duration_pb2
from prometheus_client import Gauge

from podium.worker.v1 import worker_pb2, worker_pb2_grpc
from podium_runtime import auth, errors, logs
from podium_runtime.grpc_server import Context
from podium_scheduler.app import join_tokens, records, result_frames, session_lives, worker_frames, worker_sessions

log = logs.get_logger(__name__)
STREAMS = Gauge("podium_worker_streams", "Worker streams on this replica.")
_HELLO_TIMEOUT_S = 10.0
POD = "pod"
"""The principal of a caller whose token is a pod's: which pod's, its Hello says, and then it is looked up."""
# A worker must let go before the ledger does, however long the word about the last renewal was on its way.
_WORKERS_TRUST = 0.8


@dataclass(frozen=True, slots=True)
class Cadence:
    """What Welcome tells every worker."""

    heartbeat: timedelta
    lease_ttl: timedelta
    resume_grace: timedelta
    max_chunk_bytes: int


@dataclass(slots=True)
class _Heard:
    """When the last frame came, monotonic."""

    at: float


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Pumps frames between the wire and the use cases."""

    def __init__(
        self,
        lives: session_lives.SessionLives,
        frames: worker_frames.WorkerFrames,
        cadence: Cadence,
        tokens: join_tokens.JoinTokens,
    ) -> None:
        self._lives = lives
        self._frames = frames
        self._cadence = cadence
        self._tokens = tokens
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends all streams, so that their workers go on at another replica."""
        self._stopping.set()

    # A coroutine that writes by itself: reading and writing go on side by side, which a generator cannot do.
    async def Connect(  # type: ignore[override]
        self, request_iterator: AsyncIterator[result_frames.Frame], context: Context
    ) -> None:
        """Ends when the worker ends it, says Goodbye, falls silent, is fenced, or this replica stops."""
        frames = aiter(request_iterator)
        hello = await _hello(frames)
        if auth.current_principal() == POD:
            await self._join(hello, auth.bearer_token(context))
        else:
            # Nobody has proved that it runs there.
            hello.pod_id = ""
        session, resumed = await self._lives.open(hello)
        STREAMS.inc()
        try:
            await context.write(self._welcome(session, hello, resumed))
            if session.wanted or session.draining:
                session.desire()
            await self._pump(session, frames, context)
        finally:
            STREAMS.dec()
            # The handler may be cancelled here; the session's end must be recorded all the same.
            await asyncio.shield(asyncio.ensure_future(self._lives.close(session)))

    async def _join(self, hello: worker_pb2.Hello, token: str) -> None:
        """Raises errors.Unauthenticated unless the token is that of the Hello's pod."""
        try:
            pod_id, worker_id = UUID(hello.pod_id), UUID(hello.worker_id)
        except ValueError:
            field = "hello.pod_id" if not hello.pod_id else "hello"
            raise errors.InvalidArgument(
                [errors.Violation(field, "a pod's token needs UUIDs of pod and worker")]
            ) from None
        refusal = await self._tokens.redeem(token, pod_id, worker_id)
        if refusal is not None:
            message = f"this token does not let the worker join for pod {pod_id}"
            raise errors.Unauthenticated(message, reason=f"JOIN_TOKEN_{refusal.value}")

    async def _pump(
        self,
        session: worker_sessions.Session,
        frames: AsyncIterator[result_frames.Frame],
        context: Context,
    ) -> None:
        heard = _Heard(time.monotonic())
        tasks = {
            asyncio.create_task(self._read(session, frames, heard)),
            asyncio.create_task(self._until_silent(heard)),
            asyncio.create_task(_write(session, context)),
            asyncio.create_task(session.closed.wait()),
            asyncio.create_task(self._stopping.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_silent(self, heard: _Heard) -> None:
        """Raises errors.DeadlineExceeded when nothing has come for the time of a lease. One timer for that time, and
        not one for each frame."""
        silence_s = self._cadence.lease_ttl.total_seconds()
        while True:
            left_s = heard.at + silence_s - time.monotonic()
            if left_s <= 0:
                raise errors.DeadlineExceeded(f"no frame for {silence_s:g} s", reason="WORKER_SILENT")
            await asyncio.sleep(left_s)

    async def _read(
        self, session: worker_sessions.Session, frames: AsyncIterator[result_frames.Frame], heard: _Heard
    ) -> None:
        async for frame in frames:
            heard.at = time.monotonic()
            if isinstance(frame, worker_pb2.WorkerFrame) and frame.WhichOneof("frame") == "goodbye":
                session.said_goodbye = True
                return
            self._frames.apply(session, frame)

    def _welcome(
        self, session: worker_sessions.Session, hello: worker_pb2.Hello, resumed: list[records.ResumedLease]
    ) -> worker_pb2.SchedulerFrame:
        cadence = self._cadence
        return worker_pb2.SchedulerFrame(
            welcome=worker_pb2.Welcome(
                session_id=str(session.session_id),
                heartbeat_interval=_duration(cadence.heartbeat),
                lease_ttl=_duration(cadence.lease_ttl * _WORKERS_TRUST),
                max_chunk_bytes=cadence.max_chunk_bytes,
                workloads=self._lives.servable(hello),
                resumed=[
                    worker_pb2.Lease(batch_id=r.batch_id, lease_token=r.lease_token, attempt=r.attempt) for r in resumed
                ],
                resume_grace=_duration(cadence.resume_grace),
            )
        )


async def _hello(frames: AsyncIterator[result_frames.Frame]) -> worker_pb2.Hello:
    try:
        first: result_frames.Frame | None = await asyncio.wait_for(anext(frames), _HELLO_TIMEOUT_S)
    except (StopAsyncIteration, TimeoutError):
        first = None
    if not isinstance(first, worker_pb2.WorkerFrame) or first.WhichOneof("frame") != "hello":
        raise errors.InvalidArgument([errors.Violation("hello", "must be the first frame")])
    return first.hello


async def _write(session: worker_sessions.Session, context: Context) -> None:
    while True:
        await context.write(await session.outbox.get())


def _duration(span: timedelta) -> duration_pb2.Duration:
    converted = duration_pb2.Duration()
    converted.FromTimedelta(span)
    return converted
