"""Interactive calls on the device: all that wait for one workload go through the model together.

Promises: the front hears of a call before it is on the device, so that it knows what to suspect when this process dies;
one EMBEDDED for each call, which carries no answer when the call was dropped or late, and none when the device is
faulty, for then the front ends this process; a call that is dropped or late is never computed. Used by the compute
thread, but for `hear`. Clock: monotonic, this process's own. Failure: a call's own trouble is its answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import logs
from podium_worker.adapters import faults, payloads, results, wire
from podium_worker.app import backend
from podium_worker.domain import encodings, problems
from podium_worker.executor import batches, canary, link, models, watch

if TYPE_CHECKING:
    from podium_worker.executor import turns

log = logs.get_logger(__name__)

# Of texts that are not tokenised yet: fewer than there are in nearly all languages, so that a turn is rather too small.
_BYTES_PER_TOKEN = 3
# Of a turn, where a backend has no budget.
_MOST_ITEMS = 512
_MOVING_EVERY_S = 0.5

NOT_RESIDENT = worker_pb2.EMBED_FAILURE_REASON_NOT_RESIDENT
BAD_PAYLOAD = worker_pb2.EMBED_FAILURE_REASON_BAD_PAYLOAD
INTERNAL = worker_pb2.EMBED_FAILURE_REASON_INTERNAL


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the front has passed it on."""

    received: batches.Received
    call_id: int
    deadline: float
    """Monotonic."""

    @property
    def kind(self) -> tuple[str, int]:
        """What goes through a model together."""
        return self.received.workload, self.received.assign.modality

    @property
    def items(self) -> int:
        """In it."""
        return self.received.assign.item_count


@dataclass(frozen=True, slots=True)
class _Part:
    """A call's part of what is computed together: rows from `start` to `stop`."""

    call: Call
    encoding: encodings.Encoding
    keys: Sequence[str]
    start: int
    stop: int

    @property
    def failures(self) -> Sequence[problems.ItemFailure]:
        shelf = self.call.received.shelf
        return shelf.failures if shelf else ()


@dataclass(frozen=True, slots=True)
class _Items:
    """Of all parts, one after the other: texts, or pictures."""

    texts: list[str]
    pictures: list[npt.NDArray[np.uint8]]


class Calls:
    """Serves them."""

    def __init__(
        self,
        front: link.Link,
        loaded: models.Models,
        preparer: batches.Preparer,
        keys: watch.Keys,
        waiting: turns.Turns[Any, Call],
        injected: faults.Faults,
    ) -> None:
        self._front = front
        self._models = loaded
        self._preparer = preparer
        self._keys = keys
        self._turns = waiting
        self._faults = injected

    def hear(self, frame: wire.Frame, at: float) -> None:
        """A call has come. Used by the thread that reads."""
        self._keys.take(frame.header["key"])
        received = batches.received(frame, at)
        self._turns.call(Call(received, frame.header["call_id"], at + frame.header["left_s"]))

    def between(self) -> None:
        """Serves what may go ahead of the batch that is under way."""
        while waiting := self._turns.between():
            self.serve(waiting, ahead=True)

    def serve(self, waiting: list[Call], *, ahead: bool) -> None:
        """One turn on the device: of the calls that wait, those that go together with the one that came first."""
        began = time.monotonic()
        wanted = [call for call in waiting if self._is_wanted(call, began)]
        if wanted:
            together = self._together(wanted)
            taken = {call.received.key for call in together}
            if len(taken) < len(wanted):
                self._turns.give_back([call for call in wanted if call.received.key not in taken])
            self._answer(together)
            self._turns.took(began, time.monotonic(), ahead=ahead)

    def _is_wanted(self, call: Call, now: float) -> bool:
        if now < call.deadline and self._keys.wanted(call.received.key):
            return True
        self._tell(call, b"")
        return False

    def _together(self, wanted: Sequence[Call]) -> list[Call]:
        first = wanted[0]
        loaded = self._models.loaded(first.received.workload)
        is_text = first.received.assign.modality == workload_pb2.MODALITY_TEXT
        most = (loaded.backend.budget if loaded is not None else 0) or _MOST_ITEMS
        has_budget = loaded is not None and loaded.backend.budget > 0
        chosen, size = [first], _size(first, is_text and has_budget)
        for call in wanted[1:]:
            more = _size(call, is_text and has_budget)
            if call.kind == first.kind and size + more <= most:
                chosen.append(call)
                size += more
        return chosen

    def _answer(self, together: Sequence[Call]) -> None:
        self._front.tell(wire.Kind.EMBEDDING, {"keys": [call.received.key for call in together]})
        name = together[0].received.workload
        loaded = self._models.loaded(name)
        if loaded is None:
            for call in together:
                self._fail(call, NOT_RESIDENT, f"The model of workload {name!r} is not loaded here any more.")
            return
        try:
            self._compute(together, loaded)
        except canary.Unsound as error:
            # The front takes the device out of service, and ends this process.
            self._front.tell(wire.Kind.FAULTY, {"workload": name, "reason": str(error)})

    def _compute(self, together: Sequence[Call], loaded: models.Loaded) -> None:
        """Raises canary.Unsound."""
        began = time.monotonic()
        parts, items = self._read(together, loaded)
        if not parts:
            return
        try:
            prepared = _prepared(items, loaded)
            computed = self._on_device(parts, prepared, loaded)
            examined = [_examined(part, prepared, computed, loaded) for part in parts]
        except Exception as error:
            if len(parts) > 1:
                # One of them is to blame; the others are not to suffer for it.
                for part in parts:
                    self._compute([part.call], loaded)
                return
            log.error("call_failed", workload=loaded.model.workload, exc_info=error)
            self._fail(parts[0].call, INTERNAL, f"{type(error).__name__}: {error}"[:500])
            # A lost context of the device fails all that come after it, too.
            self._vouch(loaded)
            return
        if any(one.not_finite for one in examined):
            self._vouch(loaded)
        seconds = time.monotonic() - began
        count = sum(part.call.items for part in parts)
        for part, one in zip(parts, examined, strict=True):
            self._send(part, one, prepared, loaded, began, seconds * part.call.items / count)

    def _read(self, together: Sequence[Call], loaded: models.Loaded) -> tuple[list[_Part], _Items]:
        """What of the calls can be read, and their items one after the other; the others fail."""
        parts: list[_Part] = []
        items = _Items([], [])
        rows = 0
        for call in together:
            received = call.received
            try:
                encoding = payloads.options(received.assign.options, loaded.workload)
                if received.assign.modality == workload_pb2.MODALITY_IMAGE:
                    keys, some = self._preparer.pictures(received, loaded)
                    items.pictures.extend([some] if some is not None else [])
                    count = 0 if some is None else len(some)
                else:
                    mine = self._preparer.texts(received, loaded)
                    items.texts.extend(mine.texts)
                    keys, count = mine.keys, len(mine.texts)
            except payloads.BadPayload as error:
                self._fail(call, BAD_PAYLOAD, str(error), retryable=False)
            except ValueError as error:
                self._fail(call, INTERNAL, str(error))
            else:
                parts.append(_Part(call, encoding, keys, rows, rows + count))
                rows += count
        return parts, items

    def _on_device(
        self, parts: Sequence[_Part], prepared: backend.Prepared | None, loaded: models.Loaded
    ) -> backend.Computed | None:
        if prepared is None:
            return None
        told_at = time.monotonic()
        keys = [part.call.received.key for part in parts]

        def progress(items_done: int) -> bool:
            nonlocal told_at
            self._faults.reach("compute")
            if time.monotonic() - told_at >= _MOVING_EVERY_S:
                told_at = time.monotonic()
                self._front.tell(wire.Kind.EMBEDDING, {"keys": keys})
            return True

        try:
            return loaded.backend.compute(prepared, progress)
        finally:
            self._models.tell_budget(loaded)

    def _vouch(self, loaded: models.Loaded) -> None:
        """Raises canary.Unsound unless the device is sound."""
        if problem := self._models.check(loaded):
            raise canary.Unsound(problem)

    def _send(
        self,
        part: _Part,
        examined: results.Examined,
        prepared: backend.Prepared | None,
        loaded: models.Loaded,
        began: float,
        seconds: float,
    ) -> None:
        received = part.call.received
        batch = results.Batch(
            assign=received.assign,
            made_by=loaded.provenance,
            encoding=part.encoding,
            timing=results.Timing(began - received.at, seconds),
            keys=part.keys,
            truncations=_truncations(part, prepared),
        )
        answer = worker_pb2.EmbedAnswer(
            call_id=part.call.call_id,
            chunk=results.pack_call(examined, batch),
            token_counts=prepared.token_counts[part.start : part.stop] if prepared else (),
        )
        answer.compute_duration.FromNanoseconds(int(seconds * 1e9))
        answer.wait_duration.FromNanoseconds(int(batch.timing.wait_s * 1e9))
        frame = worker_pb2.WorkerFrame(embedded=answer).SerializeToString()
        self._tell(part.call, *self._faults.spoiled([frame]), seconds=seconds)

    def _fail(self, call: Call, reason: worker_pb2.EmbedFailureReason, message: str, *, retryable: bool = True) -> None:
        failure = worker_pb2.EmbedFailure(reason=reason, message=message, retryable=retryable)
        answer = worker_pb2.EmbedAnswer(call_id=call.call_id, failure=failure)
        self._tell(call, worker_pb2.WorkerFrame(embedded=answer).SerializeToString())

    def _tell(self, call: Call, body: bytes, *, seconds: float = 0.0) -> None:
        key = call.received.key
        self._keys.drop(key)
        header = {"key": key, "workload": call.received.workload, "items": call.items, "seconds": seconds}
        self._front.tell(wire.Kind.EMBEDDED, header, *([body] if body else []))


def _size(call: Call, in_tokens: bool) -> int:
    """What a call counts against a micro-batch's budget, about."""
    return max(call.items, len(call.received.assign.payload) // _BYTES_PER_TOKEN) if in_tokens else call.items


def _prepared(items: _Items, loaded: models.Loaded) -> backend.Prepared | None:
    """None when no item has come so far."""
    if items.texts:
        return loaded.backend.prepare_texts(items.texts)
    if not items.pictures:
        return None
    joined = items.pictures[0] if len(items.pictures) == 1 else np.concatenate(items.pictures)
    return loaded.backend.prepare_pictures(joined)


def _examined(
    part: _Part, prepared: backend.Prepared | None, computed: backend.Computed | None, loaded: models.Loaded
) -> results.Examined:
    """Raises results.BadVectors."""
    if computed is None:
        vectors = np.empty((0, loaded.model.dimension), dtype=np.float32)
        starved: frozenset[int] = frozenset()
    else:
        vectors = computed.vectors[part.start : part.stop]
        starved = frozenset(row - part.start for row in computed.out_of_memory if part.start <= row < part.stop)
    outcome = results.Outcome(vectors, part.keys, _truncations(part, prepared), starved, part.failures)
    return results.examine(part.call.items, outcome, loaded.provenance)


def _truncations(part: _Part, prepared: backend.Prepared | None) -> Sequence[backend.Truncated]:
    if prepared is None:
        return ()
    return [
        backend.Truncated(cut.index - part.start, cut.token_count, cut.max_tokens)
        for cut in prepared.truncations
        if part.start <= cut.index < part.stop
    ]
