"""The interactive calls at this worker: from the session to a device that has the model, and back.

Promises: every call is answered, unless it was dropped or its time was over: by its vectors or by a failure that says
whether another worker may do better; none is ever begun by two devices; what is not on a device yet waits for nothing
but its images and its turn. Calls belong to a session: when it ends, they are over here, and the scheduler has them
answered elsewhere. They are no batches: no lease, no credit, nothing is kept. Everything runs on the front's event loop
and nothing here waits. Clock: monotonic, injected. Failure: of a device, all its calls fail, retryable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from podium_runtime import clock, logs
from podium_worker.app import hand, offers, ports, seats

log = logs.get_logger(__name__)

MOST_IN_HAND = 512
"""Calls at this worker; the scheduler has a lower bound of its own, so that only a mistake comes here."""
MOST_BYTES = 128 << 20
"""Of their payloads together; one alone is always taken."""


@dataclass(slots=True)
class _InHand:
    call: ports.Call
    """Without its body, once somebody else has that."""
    key: str
    device: int
    images: bool
    nbytes: int


class Calls:
    """Takes calls, has them computed, and passes the answers on."""

    def __init__(
        self, seated: Mapping[int, seats.Seat], offered: Mapping[str, offers.Offer], outbox: ports.Outbox,
        intake: ports.Intake, observer: ports.Observer, time: clock.Clock, batches_in_hand: hand.Hand,
    ) -> None:  # fmt: skip
        """`seated` and `offered` are the worker's own, and change under it."""
        self._seats = seated
        self._offers = offered
        self._outbox = outbox
        self._intake = intake
        self._observer = observer
        self._clock = time
        self._hand = batches_in_hand
        self.draining = False
        """Whether nothing new is taken."""
        self._numbers = itertools.count(1)
        self._calls: dict[str, _InHand] = {}
        self._keys: dict[int, str] = {}
        self._nbytes = 0
        self.emptied = asyncio.Event()
        """Set while there are none."""
        self.emptied.set()

    # --- what the scheduler says

    def take(self, call: ports.Call) -> None:
        """Takes a call, or says why not."""
        nbytes = len(call.body)
        if len(self._calls) >= MOST_IN_HAND or (self._calls and self._nbytes + nbytes > MOST_BYTES):
            self._outbox.embed_failed(
                call.call_id, ports.CallFailure("BUSY", "This worker has as many calls as it takes.")
            )
            return
        offer, seat = self._offers.get(call.workload), self._seat_for(call.workload)
        if offer is None or seat is None:
            message = "No device of this worker has the model loaded and takes work."
            self._outbox.embed_failed(call.call_id, ports.CallFailure("NOT_RESIDENT", message))
            return
        entry = _InHand(call, f"call-{next(self._numbers)}", seat.index, call.images, nbytes)
        self._calls[entry.key] = entry
        self._nbytes += nbytes
        self._keys[call.call_id] = entry.key
        self.emptied.clear()
        if call.images:
            self._take_in(entry, offer)
        else:
            self._give(entry, None)

    def drop(self, call_id: int) -> None:
        """A call is not wanted any more."""
        entry = self._calls.get(self._keys.get(call_id, ""))
        if entry is not None:
            self._remove(entry)
            seat = self._seats[entry.device]
            if seat.executor.up:
                seat.executor.drop_embed(entry.key)

    def end_session(self) -> None:
        """Nobody waits for any of them here any more."""
        for call_id in list(self._keys):
            self.drop(call_id)

    # --- what the executors say

    def begun(self, device: int, keys: Sequence[str]) -> None:
        """These are on the device, or still are."""
        seat = self._seats[device]
        # Whatever else is there, it comes to it only between its own moves.
        seat.moved(seat.computing)
        seat.embedding.update(keys)

    def answered(self, device: int, key: str, workload: str, items: int, seconds: float, frame: bytes) -> None:
        """A call is over; `frame` is its serialized answer, empty when it was dropped or late."""
        seat = self._seats[device]
        seat.moved(seat.computing)
        seat.embedding.discard(key)
        if seconds:
            self._observer.call_done(workload, items, seconds)
        entry = self._calls.get(key)
        if entry is None:
            return
        self._remove(entry)
        offer = self._offers.get(entry.call.workload)
        if offer is not None:
            offer.last_used[device] = self._clock.monotonic()
        if frame:
            self._outbox.urgent(frame)

    def lost(self, device: int) -> None:
        """The process of a device has gone, or is not to be trusted any more."""
        seat = self._seats[device]
        if seat.embedding:
            self._hand.doubt(seat.computing)
        for entry in [entry for entry in self._calls.values() if entry.device == device]:
            message = f"The executor of device {device} was lost before it had answered."
            self._fail(entry, ports.CallFailure("EXECUTOR_LOST", message))

    # --- what it looks like

    def on(self, device: int) -> bool:
        """Whether a device has any."""
        return any(entry.device == device for entry in self._calls.values())

    def workloads_on(self, device: int) -> set[str]:
        """Workloads of those that a device has."""
        return {entry.call.workload for entry in self._calls.values() if entry.device == device}

    # --- inside

    def _seat_for(self, workload: str) -> seats.Seat | None:
        """Of the devices that have the model, the one with the fewest calls."""
        if self.draining:
            return None
        load = Counter(entry.device for entry in self._calls.values())
        able = [s for s in self._seats.values() if s.ready and s.takes and workload in s.resident]
        return min(able, key=lambda s: load[s.index], default=None)

    def _take_in(self, entry: _InHand, offer: offers.Offer) -> None:
        if offer.picture is None:
            message = f"Workload {offer.name!r} takes no images."
            self._fail(entry, ports.CallFailure("BAD_PAYLOAD", message, retryable=False))
            return
        body, entry.call = entry.call.body, replace(entry.call, body=b"")
        self._intake.begin(
            entry.key, body, offer.picture,
            max_pixels=offer.workload.max_image_pixels, max_bytes=offer.workload.max_image_bytes,
            done=self._taken_in, failed=self._not_taken_in, urgent=True,
        )  # fmt: skip

    def _taken_in(self, key: str, taken: ports.Taken) -> None:
        entry = self._calls.get(key)
        if entry is None:
            self._intake.drop(key)
            return
        offer, seat = self._offers.get(entry.call.workload), self._seats[entry.device]
        if offer is None or taken.picture != offer.picture or entry.call.workload not in seat.resident:
            message = "The model was changed or unloaded while the images were fetched."
            self._fail(entry, ports.CallFailure("NOT_RESIDENT", message))
            return
        self._give(entry, taken)

    def _not_taken_in(self, key: str, reason: str, message: str) -> None:
        entry = self._calls.get(key)
        if entry is not None:
            is_bad = reason == "BAD_PAYLOAD"
            self._fail(entry, ports.CallFailure("BAD_PAYLOAD" if is_bad else "INTERNAL", message, retryable=not is_bad))

    def _give(self, entry: _InHand, taken: ports.Taken | None) -> None:
        left_s = entry.call.deadline - self._clock.monotonic()
        if left_s <= 0:
            self._remove(entry)
            return
        self._seats[entry.device].executor.embed(entry.key, entry.call, left_s, taken)
        entry.call = replace(entry.call, body=b"")

    def _fail(self, entry: _InHand, failure: ports.CallFailure) -> None:
        self._remove(entry)
        self._outbox.embed_failed(entry.call.call_id, failure)

    def _remove(self, entry: _InHand) -> None:
        del self._calls[entry.key]
        self._nbytes -= entry.nbytes
        self._keys.pop(entry.call.call_id, None)
        if entry.images:
            self._intake.drop(entry.key)
        if not self._calls:
            self.emptied.set()
