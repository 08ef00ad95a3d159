"""Use case: one interactive call, from a gateway to a worker of this replica that has the model loaded, and back.

Promises: the ledger has no part in it; the frame goes ahead of every batch; a call is tried on two sessions at most, so
that one which kills its worker ends with its caller; when the caller goes or its time is over, the worker is told to
drop it, and nothing of it is kept here: calls take no more memory than those that the gateways have in hand. Clock: the
event loop's. Failure: errors.Unavailable with NO_WARM_WORKER when no session here has the model, with WORKER_LOST when
the workers that had it are gone; both say when to try again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from uuid import UUID

from google.protobuf import duration_pb2, timestamp_pb2
from prometheus_client import Gauge

from podium.common.v1 import workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import errors, logs, tracing
from podium_scheduler.app import calls, cold_starts, demand, worker_sessions
from podium_scheduler.domain import interactive

log = logs.get_logger(__name__)
IN_FLIGHT = Gauge("podium_scheduler_embed_calls", "Interactive calls that wait for a worker of this replica.")

_MOST_SESSIONS = 2
_DEFAULT_S = 60.0
"""Of a call whose gateway has set no deadline."""
_BUSY_RETRY_S = 0.25
_LOST_RETRY_S = 1.0
_NOT_RESIDENT = worker_pb2.EMBED_FAILURE_REASON_NOT_RESIDENT
_BUSY = worker_pb2.EMBED_FAILURE_REASON_BUSY
# The call has not been begun there.
_UNTOUCHED = frozenset({_NOT_RESIDENT, _BUSY})
_OUT = frozenset({worker_pb2.DEVICE_STATE_FAULTED, worker_pb2.DEVICE_STATE_COOLING})


class Embedding:
    """Routes calls."""

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        workloads: Mapping[str, workload_pb2.Workload],
        wanted: demand.Demand,
        starts: cold_starts.ColdStarts,
        most_calls: int,
    ) -> None:
        """`most_calls`: of one session."""
        self._registry = registry
        self._workloads = workloads
        self._demand = wanted
        self._starts = starts
        self._most_calls = most_calls

    async def __call__(
        self, request: scheduler_pb2.EmbedRequest, remaining_s: float | None
    ) -> scheduler_pb2.EmbedResponse:
        """Raises errors.InvalidArgument, Unavailable, ResourceExhausted, DeadlineExceeded, Internal."""
        if request.workload not in self._workloads:
            raise errors.InvalidArgument([errors.Violation("workload", f"there is no workload {request.workload!r}")])
        with IN_FLIGHT.track_inprogress():
            return await self._routed(request, _DEFAULT_S if remaining_s is None else remaining_s)

    async def _routed(self, request: scheduler_pb2.EmbedRequest, remaining_s: float) -> scheduler_pb2.EmbedResponse:
        until = time.monotonic() + remaining_s
        tried: set[UUID] = set()
        begun = 0
        while begun < _MOST_SESSIONS:
            session = self._session(request.workload, tried)
            if session is None:
                break
            tried.add(session.session_id)
            try:
                answer = await self._ask(session, request, until)
            except calls.SessionLost:
                begun += 1
                continue
            if answer.HasField("chunk"):
                self._demand.note(request.workload, served=True)
                self._starts.loaded(request.workload)
                return _response(answer)
            begun += self._failed(session, answer.failure)
        raise self._refusal(request.workload, begun)

    def _session(self, workload: str, tried: set[UUID]) -> worker_sessions.Session | None:
        chosen = interactive.choose(self._hosts(workload), tried, self._most_calls)
        return self._registry.get(chosen.session_id) if chosen is not None else None

    def _hosts(self, workload: str) -> list[interactive.Host]:
        return [
            interactive.Host(session.session_id, _devices(session, workload), len(session.calls))
            for session in self._registry.having(workload)
        ]

    async def _ask(
        self, session: worker_sessions.Session, request: scheduler_pb2.EmbedRequest, until: float
    ) -> worker_pb2.EmbedAnswer:
        """Raises calls.SessionLost, errors.DeadlineExceeded."""
        left_s = until - time.monotonic()
        number, call = session.calls.begin(request.workload, request.item_count, request.options)
        frame = worker_pb2.SchedulerFrame(embed=_frame(number, request, left_s))
        session.outbox.urge(frame)
        try:
            async with asyncio.timeout(left_s):
                return await call.answer
        except TimeoutError:
            raise errors.DeadlineExceeded("no worker has answered in time", reason="EMBED_DEADLINE") from None
        finally:
            session.calls.forget(number)
            if not call.answer.done() or call.answer.cancelled():
                # Gone, or late: whatever the worker has of it is for nobody. What it does not have could be in the
                # outbox for as long as its connection stands still. Workers pass over empty frames.
                frame.Clear()
                session.outbox.urge(worker_pb2.SchedulerFrame(drop_embed=worker_pb2.EmbedDrop(call_id=number)))

    def _failed(self, session: worker_sessions.Session, failure: worker_pb2.EmbedFailure) -> int:
        """Whether the call was begun by a worker that could not answer it. Raises what ends the call."""
        name = worker_pb2.EmbedFailureReason.DESCRIPTOR.values_by_number.get(failure.reason)
        reason = name.name.removeprefix("EMBED_FAILURE_REASON_") if name else str(failure.reason)
        log.info("embed_failed", worker_id=str(session.worker_id), reason=reason, message=failure.message)
        if failure.reason == worker_pb2.EMBED_FAILURE_REASON_BAD_PAYLOAD:
            raise errors.InvalidArgument([errors.Violation("items", failure.message)])
        if not failure.retryable:
            raise errors.Internal(failure.message, reason="EMBED_FAILED")
        return failure.reason not in _UNTOUCHED

    def _refusal(self, workload: str, begun: int) -> errors.PodiumError:
        if begun:
            message = f"{begun} worker{'s' if begun > 1 else ''} could not answer the call"
            return errors.Unavailable(message, reason="WORKER_LOST", retry_after_s=_LOST_RETRY_S)
        if interactive.is_warm(self._hosts(workload)):
            message = "every worker that has the model loaded has as many interactive calls as it takes"
            return errors.ResourceExhausted(message, reason="WORKERS_BUSY", retry_after_s=_BUSY_RETRY_S)
        self._demand.note(workload, served=False)
        wait_s = self._starts.left_s(workload)
        message = f"no worker has the model of workload {workload!r} loaded; that is expected in about {wait_s:.0f} s"
        return errors.Unavailable(message, reason="NO_WARM_WORKER", retry_after_s=wait_s)


def _devices(session: worker_sessions.Session, workload: str) -> int:
    """Devices of a session that can answer calls of a workload now."""
    status = session.status
    if session.closed.is_set() or session.draining or session.quarantine is not None or status.draining:
        return 0
    return sum(workload in device.resident_workloads and device.state not in _OUT for device in status.devices)


def _frame(number: int, request: scheduler_pb2.EmbedRequest, left_s: float) -> worker_pb2.EmbedCall:
    timeout = duration_pb2.Duration()
    timeout.FromNanoseconds(max(0, int(left_s * 1e9)))
    return worker_pb2.EmbedCall(
        call_id=number,
        workload=request.workload,
        payload=request.payload,
        payload_encoding=request.payload_encoding,
        modality=request.modality,
        options=request.options if request.HasField("options") else None,
        item_count=request.item_count,
        timeout=timeout,
        traceparent=tracing.current(),
    )


def _response(answer: worker_pb2.EmbedAnswer) -> scheduler_pb2.EmbedResponse:
    reached = timestamp_pb2.Timestamp()
    spent = answer.wait_duration.ToNanoseconds() + answer.compute_duration.ToNanoseconds()
    reached.FromNanoseconds(time.time_ns() - spent)
    return scheduler_pb2.EmbedResponse(chunk=answer.chunk, compute_time=reached, token_counts=answer.token_counts)
