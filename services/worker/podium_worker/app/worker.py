"""The worker's one piece of state: the batches in its hand, and what its devices can do.

Promises: every batch assigned is answered once a session: by its result, by a failure, or by being handed back; a
finished result is kept until its Ack, over sessions and executor crashes; an executor that does not move while it has
work is killed, and a device whose canary fails gets no more batches. Everything runs on the front's event loop and
nothing here waits, so no lock is needed. Clock: monotonic, injected, for spans only. Failure: none of its own; a batch
unknown here (late, cancelled, fenced) is ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from podium_runtime import clock, logs
from podium_worker.app import checks, ports, seats
from podium_worker.domain import batches, credits, devices, leases, progress

log = logs.get_logger(__name__)

# How long a model that failed to load is left alone before it is tried again: a try may take the better part of a
# minute, and other work of the device waits for it.
_MODEL_RETRY_S = 300.0
_DIED_LOADING = "The executor died while it loaded the model."


@dataclass(slots=True)
class _InHand:
    assignment: ports.Assignment
    state: batches.State
    device: int
    nbytes: int
    frames: Sequence[bytes] = ()
    finished_at: float = 0.0


@dataclass(slots=True)
class _Offer:
    """What is known about one workload here."""

    workload: ports.Workload
    unavailable: str = ""
    retry_at: float | None = None
    measured: credits.Measured = field(default_factory=credits.Measured)
    items_per_s: float = 0.0
    load_s: float | None = None


@dataclass(frozen=True, slots=True)
class OfferView:
    """What the worker offers for one workload."""

    workload: str
    credits: int
    items_per_s: float
    load_s: float | None
    unavailable: str


@dataclass(frozen=True, slots=True)
class View:
    """The whole current state."""

    devices: tuple[seats.DeviceView, ...]
    offers: tuple[OfferView, ...]
    total_credits: int
    in_hand: tuple[leases.Lease, ...]
    draining: bool
    checked: int = 0
    """The newest check for which all canaries have passed."""


class Worker:
    """Takes batches, has them computed, and keeps their results until they are acknowledged."""

    def __init__(
        self, outbox: ports.Outbox, observer: ports.Observer, time: clock.Clock, *, limits: credits.Limits,
        backends: Sequence[str], stillness: progress.Limits | None = None,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._observer = observer
        self._clock = time
        self._limits = limits
        self._backends = tuple(backends)
        self._stillness = stillness or progress.Limits()
        self._seats: dict[int, seats.Seat] = {}
        self._hand: dict[str, _InHand] = {}
        self._offers: dict[str, _Offer] = {}
        self._resident_wanted: tuple[str, ...] = ()
        self._checks = checks.Checks()
        self._max_chunk_bytes = 1 << 20
        self._draining = False
        self._told: object = None
        self.changed = asyncio.Event()
        """Set when something changed that the scheduler should hear at once."""
        self.emptied = asyncio.Event()
        """Set while nothing is in hand."""
        self.emptied.set()

    def attach(self, executors: Iterable[ports.Executor]) -> None:
        """Seats the executors, once, before anything else."""
        self._seats = {executor.device.index: seats.Seat(executor, self._stillness) for executor in executors}

    # --- what the scheduler says

    def welcome(
        self, workloads: Sequence[ports.Workload], resumed: Iterable[leases.Lease], max_chunk_bytes: int
    ) -> None:
        """A new session: takes its specifications, lets go of what is not resumed, sends again what is finished.

        Hands back what is resumed and not here any more: leases were dropped, or an executor died, after the Hello.
        """
        self._max_chunk_bytes = max_chunk_bytes
        self._learn(workloads)
        kept = {lease.key: lease for lease in resumed}
        for key in [key for key in self._hand if key not in kept]:
            self._apply(key, batches.Event.FENCED)
        for key, lease in kept.items():
            if key not in self._hand:
                # Nobody else would ever notice: the lease lives as long as the session.
                message = "It was let go of while the session was opened."
                self._outbox.failed(lease, ports.Failure("WORKER_LOST", message, handed_back=True))
        for entry in self._hand.values():
            if entry.state is batches.State.FINISHED:
                self._outbox.frames(entry.frames)
        self._note()

    def assign(self, assignment: ports.Assignment) -> None:
        """Takes a batch, or hands it back when it cannot be taken."""
        offer = self._offers.get(assignment.workload)
        refusal = self._refusal(offer)
        seat = self._seat_for(offer) if offer is not None and not refusal else None
        if offer is None or seat is None:
            self._refuse(assignment, refusal or "No executor of this worker is up.")
            return
        if assignment.lease.key in self._hand:
            return
        nbytes = len(assignment.body) + assignment.item_count * offer.workload.dimension * 4
        # The executor has the body; a result is sent again, never computed again, so it is not kept here.
        kept = replace(assignment, body=b"")
        self._hand[assignment.lease.key] = _InHand(kept, batches.State.RECEIVED, seat.executor.device.index, nbytes)
        self.emptied.clear()
        seat.executor.assign(assignment, self._max_chunk_bytes)
        self._note()

    def acknowledge(self, lease: leases.Lease) -> None:
        """The scheduler has the batch for good."""
        entry = self._hand.get(lease.key)
        if entry is not None and entry.state is batches.State.FINISHED:
            self._measure_ack(entry)
        self._apply(lease.key, batches.Event.ACKED)

    def cancel(self, lease: leases.Lease, *, refused: bool = False) -> None:
        """The batch is not wanted any more; `refused`: because its result did not pass the scheduler's checks."""
        entry = self._hand.get(lease.key)
        self._apply(lease.key, batches.Event.CANCELLED)
        if refused and entry is not None:
            seat = self._seats[entry.device]
            log.warning("result_refused", batch=lease.key, device=entry.device, workload=entry.assignment.workload)
            if seat.serves and entry.assignment.workload in seat.resident:
                seat.executor.check(entry.assignment.workload)

    def desire(self, resident: Sequence[str], check: int = 0) -> None:
        """Loads what should be resident and is not; runs the canaries once for each new `check`."""
        self._resident_wanted = tuple(resident)
        for seat, workload in self._checks.begin(check, self._seats.values()):
            seat.executor.check(workload)
        for name in resident:
            offer = self._offers.get(name)
            if offer is not None and not offer.unavailable:
                self._load(offer, self._seats_for(offer))

    # --- what the executors say

    def executor_up(self, device: int) -> None:
        """A fresh process: it knows nothing yet."""
        seat = self._seats[device]
        for offer in self._offers.values():
            if devices.fits(offer.workload.needs, seat.executor.device):
                blocked = offer.unavailable or seat.fault or offer.workload.name in seat.refused
                wanted = offer.workload.name in self._resident_wanted and not blocked
                seat.executor.know(offer.workload, load_now=wanted)
        self._note()

    def executor_ready(self, device: int) -> None:
        """It listens."""
        self._seats[device].ready = True
        self._seats[device].moved()
        self._note()

    def executor_lost(self, device: int) -> int:
        """The process has gone. What it worked on is suspect, what only waited goes elsewhere.

        Returns how many deaths in a row the pause before the next process should reckon with, from 1.
        """
        seat = self._seats[device]
        lost = self._on(seat)
        if seat.hung is None and seat.fault is None:
            suspect = any(state in batches.BEGUN for state in lost.values()) and not seat.loading
            seat.deaths = seat.deaths.another(suspect=suspect)
        self._observer.executor_lost(device, hung=seat.hung is not None)
        for key, state in lost.items():
            if seat.loading and state is batches.State.PREPARING:
                # It waited for a model whose load killed the process; no half of it would fare better.
                self._apply(key, batches.Event.FAILED, ports.Failure("MODEL_UNAVAILABLE", _DIED_LOADING))
            else:
                self._apply(key, batches.Event.EXECUTOR_LOST)
        if seat.fault is not None:
            seat.postpone(seat.fault.workload, self._clock.monotonic())
        seat.empty()
        self._checks.drop(device)
        self._note()
        return max(1, seat.deaths.reckoned)

    def loading(self, device: int, workload: str) -> None:
        """A model load began."""
        seat, offer = self._seats[device], self._offers.get(workload)
        own = offer.workload.load_limit_s if offer is not None else 0.0
        seat.moved()
        seat.loading[workload] = own or self._stillness.load_s
        self._note()

    def loaded(self, device: int, workload: str, seconds: float) -> None:
        """A model is resident, and its canary has passed."""
        seat = self._seats[device]
        seat.moved()
        seat.loading.pop(workload, None)
        seat.resident[workload] = None
        seat.refused.discard(workload)
        if seat.fault is not None and seat.fault.workload == workload:
            seat.fault = None
            log.info("device_healthy", device=device, workload=workload)
        offer = self._offers.get(workload)
        if offer is not None:
            offer.unavailable, offer.load_s = "", seconds
            if not any(workload in other.refused for other in self._seats.values()):
                offer.retry_at = None
        log.info("model_loaded", workload=workload, device=device, seconds=round(seconds, 3))
        self._observer.model_loaded(workload, seconds)
        self._note()

    def unavailable(self, device: int, workload: str, reason: str) -> None:
        """A model cannot be loaded; it is tried again later."""
        seat = self._seats[device]
        seat.moved()
        seat.loading.pop(workload, None)
        seat.postpone(workload, self._clock.monotonic())
        seat.refused.add(workload)
        self._checks.settled(device, workload)
        offer = self._offers.get(workload)
        if offer is not None:
            offer.retry_at = self._clock.monotonic() + _MODEL_RETRY_S
            # Its siblings may well have it.
            offer.unavailable = "" if self._seats_for(offer) else reason
        log.warning("model_unavailable", workload=workload, device=device, reason=reason)
        self._observer.model_unavailable(workload)
        self._note()

    def checked(self, device: int, workload: str) -> None:
        """A canary that was asked for has passed."""
        self._seats[device].moved()
        self._observer.canary(workload, passed=True)
        self._checks.settled(device, workload)
        self._note()

    def faulty(self, device: int, workload: str, reason: str) -> None:
        """A canary failed: the device is out of service until it passes in a fresh process."""
        seat = self._seats[device]
        seat.take_out(workload, reason, self._clock.monotonic())
        log.error("device_faulted", device=device, workload=workload, reason=reason, faults=seat.faults)
        self._observer.canary(workload, passed=False)
        for key in self._on(seat):
            self._apply(key, batches.Event.HANDED_BACK)
        self._note()

    def preparing(self, device: int, key: str) -> None:
        """The executor began with a batch."""
        self._seats[device].moved(key)
        self._apply(key, batches.Event.PREPARE_STARTED)

    def computing(self, device: int, key: str) -> None:
        """The batch is on the device."""
        seat = self._seats[device]
        seat.computing = key
        seat.moved(key)
        self._apply(key, batches.Event.COMPUTE_STARTED)

    def progressed(self, device: int, key: str, workload: str, items: int, frame: bytes) -> None:
        """`items` more of a batch are computed; `frame`, unless it is empty, tells the scheduler about a slow batch."""
        self._seats[device].moved(key)
        self._observer.items_computed(workload, items)
        if frame and key in self._hand:
            self._outbox.frames([frame])

    def dropped(self, device: int, key: str, workload: str, items: int) -> None:
        """A batch that was taken back is off the device; `items` of its items were not told by progress."""
        self._seats[device].off_device(key)
        self._observer.items_computed(workload, items)
        self._observer.batch_dropped(workload)

    def finished(self, device: int, key: str, result: ports.Result) -> None:
        """A batch is computed."""
        seat = self._seats[device]
        seat.off_device(key)
        self._observer.items_computed(result.workload, result.items)
        entry = self._hand.get(key)
        if entry is None or entry.state is batches.State.FINISHED:
            return
        entry.frames = result.frames
        entry.finished_at = self._clock.monotonic()
        self._measure(entry, result)
        # From here on only the frames are held.
        entry.nbytes = sum(len(frame) for frame in result.frames)
        seat.deaths, seat.faults = devices.Deaths(), 0
        self._observer.batch_done(entry.assignment.workload, entry.assignment.item_count, result)
        self._apply(key, batches.Event.RESULT_READY)

    def failed(self, device: int, key: str, failure: ports.Failure) -> None:
        """The executor gave a batch up."""
        self._seats[device].off_device(key)
        self._apply(key, batches.Event.FAILED, failure)

    # --- what time says

    def tick(self, seconds: float) -> None:
        """`seconds` more were watched: ends executors that stand still, tries again what failed and whose time has
        come."""
        now = self._clock.monotonic()
        busy = {entry.device for entry in self._hand.values() if entry.state is not batches.State.FINISHED}
        for seat in self._seats.values():
            limit_s = seat.watch(seconds, waiting=seat.index in busy or self._checks.awaits(seat.index))
            if limit_s is not None:
                self._kill_hung(seat, limit_s)
            again = self._offers.get(seat.due(now))
            if again is not None:
                seat.executor.know(again.workload, load_now=True)
        for offer in self._offers.values():
            if offer.retry_at is not None and offer.retry_at <= now:
                offer.retry_at = now + _MODEL_RETRY_S
                self._load(offer, self._fitting(offer))

    def fence(self) -> None:
        """The leases are not to be trusted any more: drops everything in hand."""
        if self._hand:
            log.warning("leases_dropped", batches=len(self._hand))
        for key in list(self._hand):
            self._apply(key, batches.Event.FENCED)

    def begin_drain(self) -> None:
        """Takes nothing new from now on."""
        self._draining = True
        self._note()

    def end_drain(self) -> None:
        """The grace is over: hands back whatever is not finished."""
        for key in list(self._hand):
            self._apply(key, batches.Event.HANDED_BACK)

    # --- what it looks like

    def in_hand(self) -> tuple[leases.Lease, ...]:
        """Leases of all batches in hand."""
        return tuple(entry.assignment.lease for entry in self._hand.values())

    def view(self) -> View:
        """The whole current state, for a Status."""
        offers = tuple(self._view_offer(offer) for offer in self._offers.values())
        return View(
            devices=tuple(seat.view(self._on(seat).values()) for seat in self._seats.values()),
            offers=offers,
            # The sum, so that one workload in demand never takes the place that another has been promised.
            total_credits=sum(offer.credits for offer in offers),
            in_hand=self.in_hand(),
            draining=self._draining,
            checked=self._checks.done(self._seats.values()),
        )

    # --- inside

    def _kill_hung(self, seat: seats.Seat, limit_s: float) -> None:
        """Says at once what becomes of its batches: a process that a driver holds may be long in dying."""
        seat.kill_hung()
        log.error("executor_hung", device=seat.index, work=seat.hung and seat.hung.value, limit_s=limit_s)
        on_it = self._on(seat)
        accused = [key for key, state in on_it.items() if seat.accused(key, state)]
        seat.deaths = seat.deaths.another(suspect=bool(accused))
        if seat.hung is progress.Work.LOADING:
            self._give_up_loads(seat, limit_s)
        message = f"The executor of device {seat.index} made no progress with this batch for {limit_s:g} s."
        for key in on_it:
            if key in accused:
                self._apply(key, batches.Event.FAILED, ports.Failure("EXECUTOR_HUNG", message))
            else:
                self._apply(key, batches.Event.HANDED_BACK)
        self._note()

    def _give_up_loads(self, seat: seats.Seat, limit_s: float) -> None:
        """Whoever waited for these models is told; they are tried again later, else they would hang it anew."""
        for workload in list(seat.loading):
            reason = f"The model of workload {workload!r} was not loaded within {limit_s:g} s."
            for key in self._on(seat):
                if self._hand[key].assignment.workload == workload:
                    self._apply(key, batches.Event.FAILED, ports.Failure("MODEL_UNAVAILABLE", reason))
            self.unavailable(seat.index, workload, reason)

    def _on(self, seat: seats.Seat) -> dict[str, batches.State]:
        """Batches that a device has and has not finished, in the order in which they came."""
        return {
            key: entry.state
            for key, entry in self._hand.items()
            if entry.device == seat.index and entry.state is not batches.State.FINISHED
        }

    def _learn(self, workloads: Sequence[ports.Workload]) -> None:
        old = self._offers
        self._offers = {}
        for seat in self._seats.values():
            if seat.fault is not None and seat.fault.workload not in {w.name for w in workloads}:
                seat.fault = None
        for workload in workloads:
            known = old.get(workload.name)
            if known is not None and known.workload.spec == workload.spec:
                self._offers[workload.name] = known
                continue
            hardware = [seat.executor.device for seat in self._seats.values()]
            reason = devices.unavailable_reason(workload.needs, hardware, self._backends) or workload.missing_files
            # Missing files may appear; a missing backend or device will not.
            retry_at = self._clock.monotonic() + _MODEL_RETRY_S if reason and workload.missing_files else None
            offer = self._offers[workload.name] = _Offer(workload, reason, retry_at)
            for seat in self._seats.values():
                seat.refused.discard(workload.name)
            for seat in self._seats_for(offer):
                seat.executor.know(workload, load_now=False)

    def _load(self, offer: _Offer, on: Iterable[seats.Seat]) -> None:
        """On every one of the devices that has not got it. Asking twice does no harm."""
        for seat in on:
            if offer.workload.name not in seat.resident and offer.workload.name not in seat.loading:
                seat.executor.know(offer.workload, load_now=True)

    def _refusal(self, offer: _Offer | None) -> str:
        if offer is None:
            return "This worker was never told about the workload."
        if self._draining:
            return "This worker is draining."
        return offer.unavailable

    def _seat_for(self, offer: _Offer) -> seats.Seat | None:
        """The fitting device with the fewest batches in hand."""
        load = dict.fromkeys(self._seats, 0)
        for entry in self._hand.values():
            if entry.state is not batches.State.FINISHED:
                load[entry.device] += 1
        return min(self._seats_for(offer), key=lambda seat: load[seat.executor.device.index], default=None)

    def _seats_for(self, offer: _Offer) -> list[seats.Seat]:
        """Devices that can be given its batches."""
        return [seat for seat in self._fitting(offer) if offer.workload.name not in seat.refused]

    def _fitting(self, offer: _Offer) -> list[seats.Seat]:
        """Devices whose process can be told about it, those that still boot included."""
        return [
            seat
            for seat in self._seats.values()
            if seat.serves and devices.fits(offer.workload.needs, seat.executor.device)
        ]

    def _refuse(self, assignment: ports.Assignment, message: str) -> None:
        offer = self._offers.get(assignment.workload)
        blocked = offer is None or bool(offer.unavailable)
        reason = "MODEL_UNAVAILABLE" if blocked else "WORKER_LOST"
        failure = ports.Failure(reason, message, handed_back=not blocked)
        self._observer.batch_failed(assignment.workload, failure)
        self._outbox.failed(assignment.lease, failure)

    def _apply(self, key: str, event: batches.Event, failure: ports.Failure | None = None) -> None:
        """Moves one batch and pays what the move owes."""
        entry = self._hand.get(key)
        if entry is None:
            return
        move = batches.advance(entry.state, event)
        if move.state is None:
            del self._hand[key]
            if not self._hand:
                self.emptied.set()
        else:
            entry.state = move.state
        self._pay(entry, move.effect, failure)
        if move.state is None or move.state is batches.State.FINISHED:
            self._note()

    def _pay(self, entry: _InHand, effect: batches.Effect, failure: ports.Failure | None) -> None:
        if effect is batches.Effect.SEND_RESULT:
            self._outbox.frames(entry.frames)
        elif effect is batches.Effect.REPORT_FAILURE and failure is not None:
            self._give_up(entry, failure)
        elif effect is batches.Effect.REPORT_CRASH:
            message = f"The executor of device {entry.device} died while it worked on this batch."
            self._give_up(entry, ports.Failure("EXECUTOR_CRASHED", message))
        elif effect is batches.Effect.HAND_BACK:
            self._stop(entry)
            self._give_up(entry, ports.Failure("WORKER_LOST", "Handed back untouched.", handed_back=True))
        elif effect is batches.Effect.STOP_WORK:
            self._stop(entry)

    def _give_up(self, entry: _InHand, failure: ports.Failure) -> None:
        self._observer.batch_failed(entry.assignment.workload, failure)
        self._outbox.failed(entry.assignment.lease, failure)

    def _stop(self, entry: _InHand) -> None:
        executor = self._seats[entry.device].executor
        if executor.up:
            executor.cancel(entry.assignment.lease.key)

    def _measure(self, entry: _InHand, result: ports.Result) -> None:
        offer = self._offers.get(entry.assignment.workload)
        if offer is None or result.compute_s <= 0:
            return
        old = offer.measured
        offer.measured = credits.Measured(
            batch_s=credits.blend(old.batch_s, result.compute_s),
            batch_bytes=credits.blend(old.batch_bytes, float(entry.nbytes)),
            ack_s=old.ack_s,
        )
        offer.items_per_s = credits.blend(offer.items_per_s, entry.assignment.item_count / result.compute_s)

    def _measure_ack(self, entry: _InHand) -> None:
        ack_s = self._clock.monotonic() - entry.finished_at
        offer = self._offers.get(entry.assignment.workload)
        if offer is not None:
            old = offer.measured
            offer.measured = credits.Measured(old.batch_s, old.batch_bytes, credits.blend(old.ack_s, ack_s))
        self._observer.batch_acknowledged(entry.assignment.workload, ack_s)

    def _load_now(self) -> credits.Load:
        return credits.Load(len(self._hand), sum(entry.nbytes for entry in self._hand.values()))

    def _credits(self, offer: _Offer) -> int:
        if self._draining or offer.unavailable:
            return 0
        want = credits.wanted(offer.measured, sum(seat.ready for seat in self._seats_for(offer)), self._limits)
        return credits.bounded(want, offer.measured, self._load_now(), self._limits)

    def _view_offer(self, offer: _Offer) -> OfferView:
        return OfferView(offer.workload.name, self._credits(offer), offer.items_per_s, offer.load_s, offer.unavailable)

    def _note(self) -> None:
        """Wakes the heartbeat if the scheduler would decide differently with what is known now.

        What is in hand and whether a device is busy changes with every batch and is left to the cadence.
        """
        digest: Mapping[str, object] = {
            "credits": {name: self._credits(offer) for name, offer in self._offers.items()},
            "unavailable": {name: offer.unavailable for name, offer in self._offers.items()},
            "resident": {index: tuple(seat.resident) for index, seat in self._seats.items()},
            "ready": {index: seat.ready for index, seat in self._seats.items()},
            "faults": {index: seat.fault and seat.fault.reason for index, seat in self._seats.items()},
            "draining": self._draining,
            "checked": self._checks.done(self._seats.values()),
        }
        if digest != self._told:
            self._told = digest
            self.changed.set()
