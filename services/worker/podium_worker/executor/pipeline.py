"""The pipeline of one executor: read -> prepare -> compute -> send, one thread each, with bounded queues between.

Promises: while the device computes a batch the next one is prepared and the results before it travel; batches leave in
the order in which they came; one frame RESULT or FAILED for each batch that was not cancelled; the front hears that a
batch is begun before it is begun, so that it knows what to suspect when this process dies; a batch that is suspect
already has no company; the front hears of every micro-batch at least each half second, so that it can tell slow from
stuck; a model is offered only once its canary has passed, and vectors in doubt are not sent before it has passed again.
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
from typing import Any

from podium.common.v1 import job_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import logs
from podium_worker.adapters import payloads, registry, results, wire
from podium_worker.app import backend
from podium_worker.executor import canary

log = logs.get_logger(__name__)

# Prepared batches that wait for the device: one is enough to keep it busy, a second evens out.
_PREPARED_AHEAD = 2
_RESULTS_AHEAD = 4
_PROGRESS_EVERY_S = 2.0
_MOVING_EVERY_S = 0.5

LoadBackend = Callable[[backend.Model], backend.Backend]
Spoil = Callable[[Sequence[bytes]], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class _Loaded:
    workload: workload_pb2.Workload
    model: backend.Model
    backend: backend.Backend
    provenance: result_pb2.Provenance


@dataclass(frozen=True, slots=True)
class _Received:
    key: str
    assign: worker_pb2.Assign
    max_chunk_bytes: int
    at: float


@dataclass(frozen=True, slots=True)
class _Check:
    """A canary that was asked for, on its way to the thread that owns the model."""

    loaded: _Loaded


@dataclass(frozen=True, slots=True)
class _Ready:
    received: _Received
    loaded: _Loaded
    keys: tuple[str, ...]
    prepared: backend.Prepared
    prepare_s: float


class _Failure(Exception):
    """A batch that cannot be done here."""

    def __init__(self, reason: job_pb2.BatchFailureReason, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


class Pipeline:
    """Serves one connection to the front until it closes."""

    def __init__(
        self,
        connection: socket.socket,
        load: LoadBackend,
        *,
        max_payload_bytes: int,
        spoil: Spoil = lambda frames: frames,
    ) -> None:
        self._connection = connection
        self._load_backend = load
        self._spoil = spoil
        self._max_payload_bytes = max_payload_bytes
        self._inbox: queue.SimpleQueue[wire.Frame] = queue.SimpleQueue()
        self._ready: queue.Queue[_Ready | _Check] = queue.Queue(_PREPARED_AHEAD)
        self._outbox: queue.Queue[tuple[dict[str, Any], tuple[bytes, ...]]] = queue.Queue()
        self._sending = threading.Lock()
        self._results = threading.BoundedSemaphore(_RESULTS_AHEAD)
        self._known: dict[str, workload_pb2.Workload] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._cancelled: set[str] = set()

    def run(self) -> None:
        """Computes on the calling thread. Never returns: the end of the connection ends the process."""
        for step in (self._read, self._prepare_all, self._send_all):
            threading.Thread(target=_or_die, args=(step,), name=step.__name__, daemon=True).start()
        self._tell(wire.Kind.READY)
        while True:
            idle_since = time.monotonic()
            ready = self._ready.get()
            if isinstance(ready, _Check):
                self._check(ready.loaded)
            else:
                self._compute(ready, time.monotonic() - idle_since)
            self._ready.task_done()

    # --- read

    def _read(self) -> None:
        while (frame := wire.read_blocking(self._connection)) is not None:
            if frame.kind is wire.Kind.CANCEL:
                # Overtakes whatever is queued.
                self._cancelled.add(frame.header["key"])
            else:
                frame.header["at"] = time.monotonic()
                self._inbox.put(frame)
        # The front has gone or wants us gone. Nothing is worth finishing: nobody could be told.
        os._exit(0)

    # --- prepare

    def _prepare_all(self) -> None:
        while True:
            frame = self._inbox.get()
            if frame.kind is wire.Kind.LOAD:
                workload = workload_pb2.Workload.FromString(frame.body)
                if self._known.get(workload.name) != workload:
                    # The registry changed between two sessions: the old model is not what is asked for any more.
                    self._loaded.pop(workload.name, None)
                self._known[workload.name] = workload
                if frame.header["now"]:
                    self._try_load(workload.name)
            elif frame.kind is wire.Kind.CHECK:
                self._begin_check(frame.header["workload"])
            elif frame.kind is wire.Kind.ASSIGN:
                assign = worker_pb2.Assign.FromString(frame.body)
                header = frame.header
                received = _Received(header["key"], assign, header["max_chunk_bytes"], header["at"])
                if _suspect(assign):
                    self._finish_all()
                    self._prepare(received)
                    self._finish_all()
                else:
                    self._prepare(received)

    def _finish_all(self) -> None:
        """Waits until every batch that was begun is computed and its outcome is with the front."""
        self._ready.join()
        self._outbox.join()

    def _begin_check(self, name: str) -> None:
        known = self._loaded.get(name)
        if known is not None:
            self._ready.put(_Check(known))
            return
        # Its specification has changed since it was loaded. Whoever loads it runs its canary.
        self._try_load(name)
        if name in self._loaded:
            self._tell(wire.Kind.CHECKED, {"workload": name})

    def _try_load(self, name: str) -> None:
        try:
            self._model(name)
        except _Failure as failure:
            log.warning("model_unavailable", workload=name, reason=failure.message)

    def _prepare(self, received: _Received) -> None:
        if self._drop_cancelled(received.key):
            return
        self._tell(wire.Kind.PREPARING, {"key": received.key})
        try:
            loaded = self._model(received.assign.workload)
            started = time.monotonic()
            texts = payloads.decode(received.assign, loaded.workload, self._max_payload_bytes)
            prepared = loaded.backend.prepare(texts.texts)
        except payloads.BadPayload as error:
            reason = job_pb2.BATCH_FAILURE_REASON_BAD_PAYLOAD
            self._fail(received, _Failure(reason, str(error), retryable=False))
        except _Failure as failure:
            self._fail(received, failure)
        except Exception as error:
            self._fail(received, _internal(error))
        else:
            spent = time.monotonic() - started
            self._ready.put(_Ready(received, loaded, tuple(texts.keys), prepared, spent))

    def _model(self, name: str) -> _Loaded:
        """The loaded model of a workload; loads it first if need be. Raises _Failure."""
        if name in self._loaded:
            return self._loaded[name]
        unavailable = job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE
        if name not in self._known:
            raise _Failure(unavailable, f"This worker was never told about workload {name!r}.", retryable=True)
        self._tell(wire.Kind.LOADING, {"workload": name})
        started = time.monotonic()
        workload = self._known[name]
        model = registry.model(workload)
        try:
            loaded = self._load_backend(model)
            canary.examine(model, loaded)
        except canary.Unsound as error:
            self._tell(wire.Kind.FAULTY, {"workload": name, "reason": str(error)})
            raise _Failure(unavailable, str(error), retryable=True) from error
        except Exception as error:
            message = (
                str(error)
                if isinstance(error, backend.ModelUnavailable | canary.NotAsRecorded)
                else _load_trouble(name, error)
            )
            self._tell(wire.Kind.UNAVAILABLE, {"workload": name, "reason": message})
            raise _Failure(unavailable, message, retryable=True) from error
        made_by = results.provenance(model, loaded.description)
        self._loaded[name] = _Loaded(workload, model, loaded, made_by)
        self._tell(wire.Kind.LOADED, {"workload": name, "seconds": time.monotonic() - started})
        return self._loaded[name]

    # --- compute

    def _compute(self, ready: _Ready, idle_s: float) -> None:
        received = ready.received
        if self._drop_cancelled(received.key):
            return
        self._tell(wire.Kind.COMPUTING, {"key": received.key})
        watch = _Watch(self, received)
        started = time.monotonic()
        try:
            computed = ready.loaded.backend.compute(ready.prepared, watch.progress)
            timing = results.Timing(wait_s=started - received.at, compute_s=time.monotonic() - started)
            packed = self._pack(ready, computed, timing)
            if packed.not_finite:
                _vouch(ready.loaded)
        except backend.Abandoned:
            self._cancelled.discard(received.key)
            untold = watch.items_done - watch.items_told
            header = {"key": received.key, "workload": received.assign.workload, "items": untold}
            self._tell(wire.Kind.DROPPED, header)
        except backend.ModelUnavailable as error:
            reason = job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE
            self._tell(wire.Kind.UNAVAILABLE, {"workload": received.assign.workload, "reason": str(error)})
            self._fail(received, _Failure(reason, str(error), retryable=True))
        except results.BadVectors as error:
            reason = job_pb2.BATCH_FAILURE_REASON_BAD_RESULT
            self._fail(received, _Failure(reason, str(error), retryable=True))
            self._check(ready.loaded)
        except canary.Unsound as error:
            # The front hands the batch back with everything else that this device has.
            self._tell(wire.Kind.FAULTY, {"workload": received.assign.workload, "reason": str(error)})
        except Exception as error:
            # It counts against the batch. But a lost context of the device fails all that come after it, too.
            self._fail(received, _internal(error))
            self._check(ready.loaded)
        else:
            self._tell_result(ready, packed, timing, idle_s, items=ready.prepared.item_count - watch.items_told)

    def _check(self, loaded: _Loaded) -> None:
        """Runs a canary between two batches."""
        name = loaded.workload.name
        problem = _problem(loaded)
        if problem:
            self._tell(wire.Kind.FAULTY, {"workload": name, "reason": problem})
        else:
            self._tell(wire.Kind.CHECKED, {"workload": name})

    def wanted(self, key: str) -> bool:
        """Whether a batch has not been taken back."""
        return key not in self._cancelled

    def tell_progress(self, received: _Received, items: int, body: bytes) -> None:
        """`items` more are computed."""
        header = {"key": received.key, "workload": received.assign.workload, "items": items}
        self._tell(wire.Kind.PROGRESS, header, body)

    def _pack(self, ready: _Ready, computed: backend.Computed, timing: results.Timing) -> results.Packed:
        outcome = results.Outcome(computed.vectors, ready.keys, ready.prepared.truncations, computed.out_of_memory)
        return results.pack(
            ready.received.assign,
            outcome,
            ready.loaded.provenance,
            timing,
            token_count=ready.prepared.token_count,
            max_chunk_bytes=ready.received.max_chunk_bytes,
        )

    def _tell_result(
        self, ready: _Ready, packed: results.Packed, timing: results.Timing, idle_s: float, *, items: int
    ) -> None:
        self._results.acquire()
        self._cancelled.discard(ready.received.key)
        frames = self._spoil(packed.frames)
        header = {
            "key": ready.received.key,
            "workload": ready.received.assign.workload,
            "items": items,
            "sizes": [len(frame) for frame in frames],
            "items_failed": packed.failed_items,
            "items_truncated": len(ready.prepared.truncations),
            "tokens": ready.prepared.token_count,
            "wait_s": timing.wait_s,
            "prepare_s": ready.prepare_s,
            "compute_s": timing.compute_s,
            "idle_s": idle_s,
        }
        self._outbox.put((header, tuple(frames)))

    # --- send

    def _send_all(self) -> None:
        while True:
            header, bodies = self._outbox.get()
            self._tell(wire.Kind.RESULT, header, *bodies)
            self._results.release()
            self._outbox.task_done()

    def _tell(self, kind: wire.Kind, header: dict[str, Any] | None = None, *bodies: bytes) -> None:
        """Returns when the front can read it even if this process dies now."""
        try:
            with self._sending:
                self._connection.sendall(wire.encode(kind, header or {}, sum(map(len, bodies))))
                for body in bodies:
                    self._connection.sendall(body)
        except ConnectionError:
            os._exit(0)  # The front has gone; see _read.

    def _fail(self, received: _Received, failure: _Failure) -> None:
        log.warning("batch_failed", batch=received.key, reason=failure.reason, message=failure.message)
        header = {
            "key": received.key,
            "reason": int(failure.reason),
            "message": failure.message,
            "retryable": failure.retryable,
        }
        self._tell(wire.Kind.FAILED, header)

    def _drop_cancelled(self, key: str) -> bool:
        if key not in self._cancelled:
            return False
        self._cancelled.discard(key)
        return True


class _Watch:
    """Progress of one batch: tells of each micro-batch, tells the scheduler about slow batches, stops the cancelled."""

    def __init__(self, pipeline: Pipeline, received: _Received) -> None:
        self._pipeline = pipeline
        self._received = received
        self._moved_at = self._told_at = time.monotonic()
        self.items_done = 0
        self.items_told = 0

    def progress(self, items_done: int) -> bool:
        """What a backend calls; False when the batch is not wanted any more."""
        self.items_done = items_done
        now = time.monotonic()
        if now - self._moved_at >= _MOVING_EVERY_S:
            self._moved_at = now
            self._pipeline.tell_progress(self._received, items_done - self.items_told, self._for_scheduler(now))
            self.items_told = items_done
        return self._pipeline.wanted(self._received.key)

    def _for_scheduler(self, now: float) -> bytes:
        """A Progress frame when it is time for one, else nothing."""
        if now - self._told_at < _PROGRESS_EVERY_S:
            return b""
        self._told_at = now
        said = worker_pb2.Progress(lease=self._received.assign.lease, items_done=self.items_done)
        return worker_pb2.WorkerFrame(progress=said).SerializeToString()


def _vouch(loaded: _Loaded) -> None:
    """Items without a finite vector are data if the device is sound. Raises canary.Unsound if it is not."""
    problem = _problem(loaded)
    if problem:
        raise canary.Unsound(problem)


def _problem(loaded: _Loaded) -> str:
    """What the canary of a model that has been used says; empty when it passes."""
    try:
        canary.examine(loaded.model, loaded.backend)
    except (canary.Unsound, canary.NotAsRecorded, backend.ModelUnavailable) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""


def _suspect(assign: worker_pb2.Assign) -> bool:
    """An earlier attempt failed, or it is the second half of a batch whose executor died."""
    return assign.lease.attempt > 1 or assign.payload_offset > 0


def _internal(error: Exception) -> _Failure:
    log.error("batch_error", exc_info=error)
    message = f"{type(error).__name__}: {error}"[:500]
    return _Failure(job_pb2.BATCH_FAILURE_REASON_INTERNAL, message, retryable=True)


def _load_trouble(workload: str, error: Exception) -> str:
    log.error("model_load_error", workload=workload, exc_info=error)
    return f"The model of workload {workload!r} failed to load: {type(error).__name__}: {error}"[:500]


def _or_die(step: Callable[[], None]) -> None:
    """Runs a thread's loop; an executor with a dead stage would only look alive."""
    try:
        step()
    except BaseException as error:
        log.critical("executor_stage_died", stage=step.__name__, exc_info=error)
        os._exit(70)
