"""Interactive calls on the device: all that wait for one workload go through the model together.

By themselves here, or as riders in a micro-batch of a job (`company`).

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
from podium_worker.domain import encodings, pace, problems
from podium_worker.executor import batches, link, models, watch

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

Kind = tuple[str, int, bool]
"""Workload, modality, and whether they are kept from company: what goes through a model together."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the front has passed it on."""

    received: batches.Received
    call_id: int
    deadline: float
    """Monotonic."""
    alone: bool = False
    """Whether it rides along no more: it has, and something was wrong."""

    @property
    def kind(self) -> Kind:
        """What it goes through a model with."""
        return self.received.workload, self.received.assign.modality, self.alone

    @property
    def items(self) -> int:
        """In it."""
        return self.received.assign.item_count


@dataclass(frozen=True, slots=True)
class Part:
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
class Turn:
    """Calls that are ready for the device, together."""

    loaded: models.Loaded
    parts: Sequence[Part]
    prepared: backend.Prepared | None
    """None when no item has come so far."""

    @property
    def size(self) -> int:
        """What it counts against a micro-batch's budget: at least 1 for each row, also where a text has no token."""
        if self.prepared is None:
            return 0
        return self.prepared.item_count * max(1, max(self.prepared.sizes, default=1))

    def sizes(self, part: Part) -> Sequence[int]:
        """What each of its items counts."""
        sizes = self.prepared.sizes if self.prepared is not None else ()
        return sizes[part.start : part.stop] or [1] * (part.stop - part.start)


@dataclass(frozen=True, slots=True)
class _Items:
    """Of all parts, one after the other: texts, or pictures."""

    texts: list[backend.Text]
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
        self._paces: dict[tuple[str, int], pace.Pace] = {}
        self.heard_at = float("-inf")
        """When a call came last, monotonic."""

    def hear(self, frame: wire.Frame, at: float) -> None:
        """A call has come. Used by the thread that reads."""
        self._keys.take(frame.header["key"])
        received = batches.received(frame, at)
        self.heard_at = at
        self._turns.call(Call(received, frame.header["call_id"], at + frame.header["left_s"]))

    def pace(self, kind: Kind) -> pace.Pace:
        """What is known of the device's speed with items of a kind."""
        return self._paces.setdefault(kind[:2], pace.Pace())

    def between(self) -> None:
        """Serves what may go ahead of the batch that is under way."""
        while waiting := self._turns.between():
            self.serve(waiting, ahead=True)

    def serve(self, waiting: list[Call], *, ahead: bool) -> None:
        """One turn on the device: of the calls that wait, those that go together with the one that came first."""
        began = time.monotonic()
        together = self.select(waiting)
        if together:
            self.answer(together)
            self._turns.took(began, time.monotonic(), ahead=ahead)

    def select(self, waiting: Sequence[Call]) -> list[Call]:
        """Those that go together with the first that is still wanted; the others wait on."""
        now = time.monotonic()
        wanted = [call for call in waiting if self._is_wanted(call, now)]
        if not wanted:
            return []
        together = self._together(wanted)
        taken = {call.received.key for call in together}
        if len(taken) < len(wanted):
            self._turns.give_back([call for call in wanted if call.received.key not in taken])
        return together

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

    def answer(self, together: Sequence[Call]) -> None:
        """Has calls of one kind computed by themselves."""
        turn = self.ready(together)
        if turn is not None:
            self.compute(turn)

    def ready(self, together: Sequence[Call]) -> Turn | None:
        """Calls of one kind, ready for the device; None when all of them are answered already."""
        self._front.tell(wire.Kind.EMBEDDING, {"keys": [call.received.key for call in together]})
        name = together[0].received.workload
        loaded = self._models.loaded(name)
        if loaded is None:
            for call in together:
                self._fail(call, NOT_RESIDENT, f"The model of workload {name!r} is not loaded here any more.")
            return None
        parts, items = self._read(together, loaded)
        if not parts:
            return None
        try:
            return Turn(loaded, parts, _prepared(items, loaded))
        except Exception as error:
            self._blame(parts, loaded, error)
            return None

    def compute(self, turn: Turn) -> None:
        """A turn by itself."""
        began = time.monotonic()
        try:
            computed = self._on_device(turn)
            if turn.prepared is not None:
                self.pace(turn.parts[0].call.kind).observe(turn.size, time.monotonic() - began, time.monotonic())
            examined = [self.examined(turn, part, computed) for part in turn.parts]
        except Exception as error:
            self._blame(turn.parts, turn.loaded, error)
            return
        if any(one.not_finite for one in examined) and not self._is_sound(turn.loaded):
            return
        seconds = time.monotonic() - began
        count = sum(part.call.items for part in turn.parts)
        for part, one in zip(turn.parts, examined, strict=True):
            self.send(turn, part, one, began, seconds * part.call.items / count)

    @staticmethod
    def examined(turn: Turn, part: Part, computed: backend.Computed | None) -> results.Examined:
        """A call's rows of those of its turn, looked at. Raises results.BadVectors."""
        return _examined(part, turn.prepared, computed, turn.loaded)

    def _blame(self, parts: Sequence[Part], loaded: models.Loaded, error: Exception) -> None:
        """Calls could not be computed together."""
        if len(parts) > 1:
            # One of them is to blame; the others are not to suffer for it.
            for part in parts:
                self.answer([part.call])
            return
        log.error("call_failed", workload=loaded.model.workload, exc_info=error)
        self._fail(parts[0].call, INTERNAL, f"{type(error).__name__}: {error}"[:500])
        # A lost context of the device fails all that come after it, too.
        self._is_sound(loaded)

    def _is_sound(self, loaded: models.Loaded) -> bool:
        """Whether the device is; if not, the front takes it out of service, and ends this process."""
        problem = self._models.check(loaded)
        if problem:
            self._front.tell(wire.Kind.FAULTY, {"workload": loaded.model.workload, "reason": problem})
        return not problem

    def _read(self, together: Sequence[Call], loaded: models.Loaded) -> tuple[list[Part], _Items]:
        """What of the calls can be read, and their items one after the other; the others fail."""
        parts: list[Part] = []
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
                parts.append(Part(call, encoding, keys, rows, rows + count))
                rows += count
        return parts, items

    def _on_device(self, turn: Turn) -> backend.Computed | None:
        if turn.prepared is None:
            return None
        told_at = time.monotonic()
        keys = [part.call.received.key for part in turn.parts]

        def progress(items_done: int) -> bool:
            nonlocal told_at
            self._faults.reach("compute")
            if time.monotonic() - told_at >= _MOVING_EVERY_S:
                told_at = time.monotonic()
                self._front.tell(wire.Kind.EMBEDDING, {"keys": keys})
            return True

        try:
            return turn.loaded.backend.compute(turn.prepared, progress)
        finally:
            self._models.tell_budget(turn.loaded)

    def send(self, turn: Turn, part: Part, examined: results.Examined, began: float, seconds: float) -> None:
        """Answers a call whose rows are there; its share of the device were `seconds` from `began` on."""
        prepared, loaded = turn.prepared, turn.loaded
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
    part: Part, prepared: backend.Prepared | None, computed: backend.Computed | None, loaded: models.Loaded
) -> results.Examined:
    """Raises results.BadVectors."""
    if computed is None:
        vectors = np.empty((0, loaded.model.dimension), dtype=np.float32)
        starved: frozenset[int] = frozenset()
    else:
        vectors = computed.vectors[part.start : part.stop]
        starved = frozenset(row - part.start for row in computed.out_of_memory if part.start <= row < part.stop)
    unread = _unread(part, prepared)
    outcome = results.Outcome(vectors, part.keys, _truncations(part, prepared), starved, part.failures, unread)
    return results.examine(part.call.items, outcome, loaded.provenance)


def _truncations(part: Part, prepared: backend.Prepared | None) -> Sequence[backend.Truncated]:
    if prepared is None:
        return ()
    return [
        backend.Truncated(cut.index - part.start, cut.token_count, cut.max_tokens)
        for cut in prepared.truncations
        if part.start <= cut.index < part.stop
    ]


def _unread(part: Part, prepared: backend.Prepared | None) -> Sequence[problems.ItemFailure]:
    if prepared is None:
        return ()
    found = [one for one in prepared.failures if part.start <= one.index < part.stop]
    return [problems.ItemFailure(one.index - part.start, one.reason, one.message) for one in found]
