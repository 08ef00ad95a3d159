"""The pipeline of one executor: read -> prepare -> compute -> send, one thread each, with bounded queues between.

Interactive calls come in beside it: from the reading thread straight to the one that computes, which serves them
between two micro-batches, or as rows of the next one (`calls`, `company`, `turns`).

Promises: while the device computes a batch the next one is prepared, and the results before it are encoded and travel;
batches leave in the order in which they came; one frame RESULT or FAILED for each batch that was not cancelled; the
front hears that a batch is begun before it is begun, so that it knows what to suspect when this process dies; a batch
that is suspect already has no company; the front hears of every micro-batch at least each half second, so that it can
tell slow from stuck; a model is offered only once its canary has passed, vectors in doubt are not sent before it has
passed again, and a model is closed only once what was begun with it is computed.
Clock: monotonic, this process's own; only spans are measured. Failure: a batch's own trouble is
told and forgotten; whatever nobody foresaw in a thread ends the process, and the front reports the batches that were in
it.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podium.common.v1 import job_pb2, workload_pb2
from podium_runtime import logs
from podium_worker.adapters import faults, payloads, results, wire
from podium_worker.app import backend
from podium_worker.domain import riding, shares
from podium_worker.executor import album, batches, calls, canary, company, failures, link, models, turns, watch

log = logs.get_logger(__name__)

# Prepared batches that wait for the device: one is enough to keep it busy, a second evens out.
_PREPARED_AHEAD = 2
_RESULTS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class _Check:
    """A canary that was asked for, on its way to the thread that owns the model."""

    loaded: models.Loaded


@dataclass(frozen=True, slots=True)
class _Close:
    """A model that is used no more, behind the last batch that uses it. `asked`: the front waits for an answer."""

    workload: str
    loaded: models.Loaded | None
    asked: bool


class Pipeline:
    """Serves one connection to the front until it closes."""

    def __init__(
        self,
        connection: socket.socket,
        loader: models.Loader,
        *,
        max_payload_bytes: int,
        shared: album.Album | None = None,
        injected: faults.Faults = faults.NONE,
        share: shares.Share | None = None,
        ride: riding.Limits | None = None,
    ) -> None:
        """`share`: of the device's time for interactive calls while batches wait; `ride`: how they come between."""
        share = share or shares.Share()
        self._ride = ride or riding.Limits()
        self._front = link.Link(connection)
        self._faults = injected
        self._models = models.Models(self._front, loader, injected)
        self._preparer = batches.Preparer(shared, max_payload_bytes)
        self._keys = watch.Keys()
        self._inbox: queue.SimpleQueue[tuple[wire.Frame, float]] = queue.SimpleQueue()
        self._ready: turns.Turns[batches.Ready | _Check | _Close, calls.Call] = turns.Turns(
            _PREPARED_AHEAD, share, self._hosts
        )
        self._calls = calls.Calls(self._front, self._models, self._preparer, self._keys, self._ready, injected)
        self._outbox: queue.Queue[batches.Finished] = queue.Queue()
        self._results = threading.BoundedSemaphore(_RESULTS_AHEAD)
        self._free_since = 0.0

    def run(self) -> None:
        """Computes on the calling thread. Never returns: the end of the connection ends the process."""
        for step in (self._read, self._prepare_all, self._send_all):
            threading.Thread(target=_or_die, args=(step,), name=step.__name__, daemon=True).start()
        self._front.tell(wire.Kind.READY)
        self._free_since = time.monotonic()
        while True:
            self._one_turn()

    # --- read

    def _read(self) -> None:
        while True:
            frame = self._front.read()
            if frame.kind is wire.Kind.CANCEL:
                self._keys.cancel(frame.header["key"])
                continue
            if frame.kind is wire.Kind.DROP_EMBED:
                self._keys.cancel(frame.header["key"])
                continue
            if frame.kind is wire.Kind.EMBED:
                self._calls.hear(frame, time.monotonic())
                continue
            if frame.kind is wire.Kind.ASSIGN:
                self._keys.take(frame.header["key"])
            self._inbox.put((frame, time.monotonic()))

    # --- prepare

    def _prepare_all(self) -> None:
        while True:
            frame, at = self._inbox.get()
            match frame.kind:
                case wire.Kind.LOAD:
                    self._learn(frame)
                case wire.Kind.UNLOAD:
                    name = frame.header["workload"]
                    self._close(name, self._models.forget(name), asked=True)
                case wire.Kind.CHECK:
                    self._begin_check(frame.header["workload"])
                case wire.Kind.ASSIGN:
                    self._begin(batches.received(frame, at))

    def _learn(self, frame: wire.Frame) -> None:
        workload = workload_pb2.Workload.FromString(frame.body)
        gone = self._models.know(workload, frame.header["budget"])
        if gone is not None:
            # The registry changed between two sessions: the old model is not what is asked for any more.
            self._close(workload.name, gone, asked=False)
        if frame.header["now"]:
            self._try_load(workload.name)

    def _begin(self, received: batches.Received) -> None:
        if not received.suspect:
            self._prepare(received)
            return
        self._finish_all()
        self._prepare(received)
        self._finish_all()

    def _finish_all(self) -> None:
        """Waits until every batch that was begun is computed and its outcome is with the front."""
        self._ready.join()
        self._outbox.join()

    def _begin_check(self, name: str) -> None:
        known = self._models.loaded(name)
        if known is not None:
            self._ready.put(_Check(known))
            return
        # Its specification has changed since it was loaded. Whoever loads it runs its canary.
        if self._try_load(name):
            self._front.tell(wire.Kind.CHECKED, {"workload": name})

    def _close(self, name: str, gone: models.Loaded | None, *, asked: bool) -> None:
        self._ready.put(_Close(name, gone, asked))

    def _try_load(self, name: str) -> bool:
        try:
            self._model(name)
        except failures.Failure as failure:
            log.warning("model_unavailable", workload=name, reason=failure.message)
            return False
        return True

    def _model(self, name: str) -> models.Loaded:
        """The model of a workload; loads it first if need be. Raises failures.Failure."""
        if self._models.loaded(name) is None:
            # It may need the memory of what is being closed. And its budget is measured: whatever else computes on the
            # device would be counted in, and could run out of the memory that the measuring takes.
            self._ready.join()
        return self._models.get(name)

    def _prepare(self, received: batches.Received) -> None:
        if self._dropped(received):
            return
        self._front.tell(wire.Kind.PREPARING, {"key": received.key})
        try:
            ready = self._preparer.prepare(received, self._model(received.workload))
        except payloads.BadPayload as error:
            reason = job_pb2.BATCH_FAILURE_REASON_BAD_PAYLOAD
            self._fail(received, failures.Failure(reason, str(error), retryable=False))
        except failures.Failure as failure:
            self._fail(received, failure)
        except Exception as error:
            self._fail(received, failures.internal(error))
        else:
            self._faults.reach("prepare")
            self._ready.put(ready)

    # --- compute

    def _one_turn(self) -> None:
        # Nothing here may outlive its turn: a batch holds on to its model.
        turn = self._ready.take()
        if isinstance(turn, list):
            began = time.monotonic()
            self._calls.serve(turn, ahead=False)
            # The device has not been idle for so long.
            self._free_since += time.monotonic() - began
            return
        self._take(turn)
        self._ready.done()

    def _take(self, work: batches.Ready | _Check | _Close) -> None:
        match work:
            case _Check():
                self._check(work.loaded)
            case _Close():
                kept = self._models.close(work.loaded)
                if work.asked:
                    self._front.tell(wire.Kind.UNLOADED, {"workload": work.workload, "unreturned_bytes": kept})
            case _:
                self._compute(work)

    def _compute(self, ready: batches.Ready) -> None:
        received = ready.received
        if self._dropped(received):
            return
        watching = watch.Watch(self._front, received, self._keys, self._faults)
        started = time.monotonic()
        # Of a batch that never comes to the device the next one tells how long the device has waited.
        idle_s = started - self._free_since if ready.prepared is not None else 0.0
        try:
            computed, compute_s = self._on_device(ready, watching)
            outcome = ready.outcome(computed)
            examined = results.examine(ready.item_count, outcome, ready.loaded.provenance)
            if examined.not_finite:
                self._vouch(ready.loaded)
        except backend.Abandoned:
            self._keys.drop(received.key)
            header = {"key": received.key, "workload": received.workload, "items": watching.untold}
            self._front.tell(wire.Kind.DROPPED, header)
        except backend.ModelUnavailable as error:
            reason = job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE
            self._front.tell(wire.Kind.UNAVAILABLE, {"workload": received.workload, "reason": str(error)})
            self._fail(received, failures.Failure(reason, str(error)))
        except results.BadVectors as error:
            reason = job_pb2.BATCH_FAILURE_REASON_BAD_RESULT
            self._fail(received, failures.Failure(reason, str(error)))
            self._check(ready.loaded)
        except canary.Unsound as error:
            # The front hands the batch back with everything else that this device has.
            self._front.tell(wire.Kind.FAULTY, {"workload": received.workload, "reason": str(error)})
        except Exception as error:
            # It counts against the batch. But a lost context of the device fails all that come after it, too.
            self._fail(received, failures.internal(error))
            self._check(ready.loaded)
        else:
            fetch_s = received.shelf.fetch_s if received.shelf else None
            timing = results.Timing(started - received.at, compute_s, fetch_s)
            self._results.acquire()
            self._outbox.put(batches.finished(ready, examined, timing, items=watching.untold, idle_s=idle_s))

    def _on_device(self, ready: batches.Ready, watching: watch.Watch) -> tuple[backend.Computed | None, float]:
        """What the device makes of a batch, and the seconds it took; nothing when no item of it has come so far."""
        if ready.prepared is None:
            return None, 0.0
        self._front.tell(wire.Kind.COMPUTING, {"key": ready.received.key})
        started, calls_s = time.monotonic(), self._ready.calls_s
        try:
            computed = self._in_company(ready, ready.prepared, watching)
        finally:
            self._free_since = time.monotonic()
            self._models.tell_budget(ready.loaded)
        return computed, self._free_since - started - (self._ready.calls_s - calls_s)

    def _in_company(self, ready: batches.Ready, prepared: backend.Prepared, watching: watch.Watch) -> backend.Computed:
        compute = ready.loaded.backend.compute
        if ready.received.suspect:
            # Nobody keeps a suspect batch company.
            return compute(prepared, watching.progress)
        beside = company.Company(self._calls, self._ready, _kind(ready), ready.loaded, self._ride)
        try:
            with beside:
                return compute(prepared, watching.progress, beside)
        except (backend.Abandoned, backend.ModelUnavailable):
            raise
        except Exception as error:
            if not beside.shared:
                raise
            log.warning("batch_failed_in_company", batch=ready.received.key, exc_info=error)
        # Its riders may be to blame, and the device may be lost to them.
        self._vouch(ready.loaded)
        self._calls.between()
        watching.again()
        return compute(prepared, watching.progress)

    def _hosts(self, work: batches.Ready | _Check | _Close, waiting: Sequence[calls.Call]) -> bool:
        """Whether the calls are seen to before the first micro-batch of a batch, which may take them along."""
        if not isinstance(work, batches.Ready) or work.prepared is None or work.received.suspect:
            return False
        return waiting[0].kind == _kind(work) and self._keys.wanted(work.received.key)

    def _vouch(self, loaded: models.Loaded) -> None:
        """Items without a finite vector are data if the device is sound. Raises canary.Unsound if it is not."""
        problem = self._models.check(loaded)
        self._free_since = time.monotonic()
        if problem:
            raise canary.Unsound(problem)

    def _check(self, loaded: models.Loaded) -> None:
        """Runs a canary between two batches."""
        name = loaded.model.workload
        try:
            self._vouch(loaded)
        except canary.Unsound as error:
            self._front.tell(wire.Kind.FAULTY, {"workload": name, "reason": str(error)})
        else:
            self._front.tell(wire.Kind.CHECKED, {"workload": name})

    # --- send

    def _send_all(self) -> None:
        while True:
            self._send(self._outbox.get())
            self._results.release()
            self._outbox.task_done()

    def _send(self, done: batches.Finished) -> None:
        received, timing = done.received, done.batch.timing
        started = time.monotonic()
        try:
            packed = results.pack(done.examined, done.batch, received.max_chunk_bytes)
        except Exception as error:
            self._fail(received, failures.internal(error))
            return
        frames = self._faults.spoiled(packed.frames)
        header = {
            "key": received.key,
            "workload": received.workload,
            "items": done.items,
            "sizes": [len(frame) for frame in frames],
            "items_failed": packed.failed_items,
            "items_truncated": packed.truncated_items,
            "tokens": done.batch.token_count,
            "wait_s": timing.wait_s,
            "fetch_s": timing.fetch_s or 0.0,
            "prepare_s": done.prepare_s,
            "compute_s": timing.compute_s,
            "pack_s": time.monotonic() - started,
            "idle_s": done.idle_s,
        }
        self._keys.drop(received.key)
        self._front.tell(wire.Kind.RESULT, header, *frames, halfway=lambda: self._faults.reach("send"))

    # --- whoever

    def _fail(self, received: batches.Received, failure: failures.Failure) -> None:
        log.warning("batch_failed", batch=received.key, reason=failure.reason, message=failure.message)
        self._keys.drop(received.key)
        header = {
            "key": received.key,
            "reason": int(failure.reason),
            "message": failure.message,
            "retryable": failure.retryable,
        }
        self._front.tell(wire.Kind.FAILED, header)

    def _dropped(self, received: batches.Received) -> bool:
        """Whether a batch was taken back before it came to the device."""
        if self._keys.wanted(received.key):
            return False
        self._keys.drop(received.key)
        return True


def _kind(ready: batches.Ready) -> calls.Kind:
    """Of the calls that may ride along."""
    return ready.received.workload, ready.received.assign.modality, False


def _or_die(step: Callable[[], None]) -> None:
    """Runs a thread's loop; an executor with a dead stage would only look alive."""
    try:
        step()
    except BaseException as error:
        log.critical("executor_stage_died", stage=step.__name__, exc_info=error)
        os._exit(70)
