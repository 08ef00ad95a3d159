"""Use case: what a worker says about its batches, frame by frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from prometheus_client import Counter, Histogram

from podium.common.v1 import job_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import logs
from podium_scheduler.app import (
    completer,
    model_loads,
    pod_uses,
    remembering,
    result_checks,
    result_frames,
    throughputs,
    worker_sessions,
)
from podium_scheduler.domain import batches, quarantine

log = logs.get_logger(__name__)

REFUSED = Counter("podium_refused_results_total", "Result chunks that failed the checks.", ["workload"])
QUARANTINES = Counter("podium_quarantines_total", "Times that a worker's session was quarantined.")
STAGE = Histogram("podium_batch_stage_seconds", "Time of a batch in a stage.", ["workload", "stage"])

_REASON_PREFIX = "BATCH_FAILURE_REASON_"


class WorkerFrames:
    """Applies a session's frames."""

    def __init__(
        self,
        workloads: Mapping[str, workload_pb2.Workload],
        settle: completer.Completer,
        policy: batches.RetryPolicy,
        wake_dispatcher: asyncio.Event,
        conduct: quarantine.Policy,
        loads: model_loads.ModelLoads,
        speeds: throughputs.Throughputs,
        uses: pod_uses.PodUses,
        remember: remembering.Remembering,
    ) -> None:
        self._workloads = workloads
        self._completer = settle
        self._policy = policy
        self._wake = wake_dispatcher
        self._conduct = conduct
        self._loads = loads
        self._speeds = speeds
        self._uses = uses
        self._remembering = remember

    def apply(self, session: worker_sessions.Session, frame: result_frames.Frame) -> None:
        """Applies one frame; Hello and Goodbye are the stream's own business."""
        if isinstance(frame, result_frames.ResultFrame):
            self._chunk(session, frame)
            return
        kind = frame.WhichOneof("frame")
        if kind == "status":
            if session.take_status(frame.status, self._workloads.keys()):
                self._wake.set()
            self._loads.note(session)
        elif kind == "done":
            self._done(session, frame.done)
        elif kind == "failed":
            self._failed(session, frame.failed)
        elif kind == "embedded":
            self._embedded(session, frame.embedded)
        elif kind == "progress":
            session.held(frame.progress.lease, "progress")

    def _chunk(self, session: worker_sessions.Session, frame: result_frames.ResultFrame) -> None:
        held = session.held(frame.lease, "chunk")
        if held is None:
            return
        chunk = frame.chunk
        wrong = result_checks.problem(
            chunk,
            frame.vectors,
            next_item=held.next_item,
            end_item=held.first_item + held.item_count,
            asked=result_checks.asked_by(held.options, self._workloads.get(held.workload)),
        )
        if wrong is None and (chunk.job_id != str(held.job_id) or chunk.chunk_index != len(held.chunks)):
            wrong = f"chunk {chunk.chunk_index} of job {chunk.job_id} is not the next of this batch"
        if wrong is None and chunk.errors:
            wrong = _note_left_out(held, chunk)
        if wrong is not None:
            self._refuse(session, frame.lease, held, wrong)
            return
        held.chunks.append(frame.serialized)
        held.next_item += chunk.item_count
        held.items_failed += len(chunk.errors)
        held.items_truncated += len(chunk.truncations)

    def _done(self, session: worker_sessions.Session, frame: worker_pb2.BatchDone) -> None:
        held = session.held(frame.lease, "done")
        if held is None:
            return
        if held.next_item != held.first_item + held.item_count or frame.chunk_count != len(held.chunks):
            self._refuse(session, frame.lease, held, f"ended at item {held.next_item} after {len(held.chunks)} chunks")
            return
        STAGE.labels(held.workload, "wait_at_worker").observe(frame.wait_duration.ToMilliseconds() / 1000)
        STAGE.labels(held.workload, "compute").observe(frame.compute_duration.ToMilliseconds() / 1000)
        if frame.HasField("fetch_duration"):
            STAGE.labels(held.workload, "fetch").observe(frame.fetch_duration.ToMilliseconds() / 1000)
        seconds = frame.compute_duration.ToNanoseconds() / 1e9
        self._uses.note(session, held.workload, seconds, held.job_id)
        if held.plan is None and not held.left_out:
            self._speeds.note(session, held.workload, held.item_count, seconds)
            self._completer.complete(session, frame.lease.batch_id, held)
        else:
            computed = len(held.plan.to_compute) if held.plan is not None else 0
            self._speeds.note(session, held.workload, computed, seconds)
            self._remembering.done(session, frame.lease.batch_id, held)

    def _embedded(self, session: worker_sessions.Session, answer: worker_pb2.EmbedAnswer) -> None:
        """The answer to an interactive call is checked as a batch's result is."""
        call = session.calls.get(answer.call_id)
        if call is None or call.answer.done():
            worker_sessions.STALE.labels("embedded").inc()
            return
        if answer.WhichOneof("outcome") is None:
            answer.failure.SetInParent()
        if answer.HasField("chunk"):
            asked = result_checks.asked_by(call.options, self._workloads.get(call.workload))
            wrong = result_checks.problem_of_call(answer, call.item_count, asked)
            if wrong is not None:
                REFUSED.labels(call.workload).inc()
                log.warning("answer_refused", worker_id=str(session.worker_id), problem=wrong)
                failure = worker_pb2.EmbedFailure(message=f"its answer was refused: {wrong}", retryable=True)
                answer = worker_pb2.EmbedAnswer(call_id=answer.call_id, failure=failure)
                self._misbehaved(session, wrong)
            else:
                seconds = answer.compute_duration.ToNanoseconds() / 1e9
                self._uses.note(session, call.workload, seconds, call=True)
        call.answer.set_result(answer)

    def _failed(self, session: worker_sessions.Session, frame: worker_pb2.BatchFailed) -> None:
        held = session.held(frame.lease, "failed")
        if held is None:
            return
        self._end(session, frame.lease, held, _reason(frame.reason), frame.message, frame.retryable, frame.handed_back)

    def _refuse(
        self,
        session: worker_sessions.Session,
        lease: worker_pb2.Lease,
        held: worker_sessions.Held,
        wrong: str,
    ) -> None:
        REFUSED.labels(held.workload).inc()
        log.warning("result_refused", batch_id=lease.batch_id, worker_id=str(session.worker_id), problem=wrong)
        cancel = worker_pb2.Cancel(lease=lease, reason=worker_pb2.CANCEL_REASON_RESULT_REFUSED)
        session.outbox.put_nowait(worker_pb2.SchedulerFrame(cancel=cancel))
        self._end(session, lease, held, batches.FailureReason.BAD_RESULT, wrong, retryable=True, handed_back=False)
        self._misbehaved(session, wrong)

    def _misbehaved(self, session: worker_sessions.Session, wrong: str) -> None:
        """One more result of this worker was refused."""
        session.conduct = session.conduct.refused(time.monotonic(), self._conduct)
        if session.quarantine is None and session.conduct.too_much(self._conduct):
            self._quarantine(session, wrong)

    def _quarantine(self, session: worker_sessions.Session, wrong: str) -> None:
        """The worker gets nothing more, and what it has goes to others."""
        reason = f"{len(session.conduct.refusals)} of its results were refused, the last one because {wrong}"
        session.quarantine_for(reason, self._conduct.pause_s)
        QUARANTINES.inc()
        log.error("worker_quarantined", worker_id=str(session.worker_id), reason=reason)
        for batch_id, held in [(b, h) for b, h in session.in_hand.items() if not h.settling]:
            lease = worker_pb2.Lease(batch_id=batch_id, lease_token=held.lease_token, attempt=held.attempt)
            cancel = worker_pb2.Cancel(lease=lease, reason=worker_pb2.CANCEL_REASON_LEASE_LOST)
            session.outbox.put_nowait(worker_pb2.SchedulerFrame(cancel=cancel))
            lost = batches.FailureReason.WORKER_LOST
            self._end(session, lease, held, lost, "its worker was quarantined", retryable=True, handed_back=True)

    def _end(
        self,
        session: worker_sessions.Session,
        lease: worker_pb2.Lease,
        held: worker_sessions.Held,
        reason: batches.FailureReason,
        message: str,
        retryable: bool,
        handed_back: bool,
    ) -> None:
        outcome = batches.after_failure(
            held.attempt,
            reason,
            items=held.item_count,
            retryable=retryable,
            handed_back=handed_back,
            policy=self._policy,
        )
        if isinstance(outcome, batches.GiveUp):
            message = outcome.message or message
        log.info("attempt_failed", batch_id=lease.batch_id, reason=reason.value, outcome=type(outcome).__name__)
        self._completer.fail(session, lease.batch_id, held, outcome, message)


def _note_left_out(held: worker_sessions.Held, chunk: result_pb2.ResultChunk) -> str | None:
    """Whether the worker left items out, as it was asked to; what is wrong with it if it was not.

    Of a lease that was resumed nobody knows what was asked: its result is not whole then, and no more.
    """
    left_out = any(error.reason == result_pb2.ITEM_ERROR_REASON_LEFT_OUT for error in chunk.errors)
    if not left_out:
        return None
    if not held.resumed and (held.plan is None or not held.plan.leaves_out):
        return "it leaves out items that were to be computed"
    held.left_out = True
    return None


def _reason(value: job_pb2.BatchFailureReason) -> batches.FailureReason:
    """A newer worker may know reasons that we do not."""
    number = job_pb2.BatchFailureReason.DESCRIPTOR.values_by_number.get(value)
    name = number.name.removeprefix(_REASON_PREFIX) if number else ""
    known = name in batches.FailureReason.__members__
    return batches.FailureReason(name) if known else batches.FailureReason.INTERNAL
