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
from dataclasses import replace

from podium_runtime import clock, logs
from podium_worker.app import calls, checks, hand, offers, ports, residents, seats
from podium_worker.domain import batches, credits, devices, health, leases, progress, residency

log = logs.get_logger(__name__)

_DIED_LOADING = "The executor died while it loaded the model."
# What a framework may keep after a model has gone, for its own next use.
_KEEPS_BYTES = 256 * 1024 * 1024


class Worker:
    """Takes batches, has them computed, and keeps their results until they are acknowledged."""

    def __init__(
        self, outbox: ports.Outbox, observer: ports.Observer, time: clock.Clock, *, limits: credits.Limits,
        backends: Sequence[str], stillness: progress.Limits | None = None, intake: ports.Intake | None = None,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._observer = observer
        self._clock = time
        self._limits = limits
        self._backends = tuple(backends)
        self._stillness = stillness or progress.Limits()
        self._seats: dict[int, seats.Seat] = {}
        self._hand = hand.Hand()
        self._offers: dict[str, offers.Offer] = {}
        self._intake = intake or ports.NoImages()
        self.calls = calls.Calls(self._seats, self._offers, outbox, self._intake, observer, time, self._hand)
        self._residents = residents.Residents(self._offers, self._seats, self._busy, observer, time)
        self._checks = checks.Checks()
        self._max_chunk_bytes = 1 << 20
        self._draining = False
        self._told: object = None
        self.changed = asyncio.Event()
        """Set when something changed that the scheduler should hear at once."""
        self.emptied = asyncio.Event()
        """Set while nothing is in hand."""
        self.emptied.set()

    def attach(
        self, executors: Iterable[ports.Executor], capacities: Mapping[int, residency.Capacity] | None = None
    ) -> None:
        """Seats the executors, once, before anything else.

        `capacities`: of each device for weights; without one, there is no bound.
        """
        for executor in executors:
            index = executor.device.index
            capacity = (capacities or {}).get(index, residency.Capacity())
            self._seats[index] = seats.Seat(executor, self._stillness, capacity, calls_lost=self.calls.lost)

    # --- what the scheduler says

    def welcome(
        self, workloads: Sequence[ports.Workload], resumed: Iterable[leases.Lease], max_chunk_bytes: int
    ) -> None:
        """A new session: takes its specifications, lets go of what is not resumed, sends again what is finished.

        Hands back what is resumed and not here any more: leases were dropped, or an executor died, after the Hello.
        """
        self._max_chunk_bytes = max_chunk_bytes
        self._residents.learn(workloads, self._backends)
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
        seat = self._residents.seat_for(offer, self._hand) if offer is not None and not refusal else None
        if offer is None or seat is None:
            self._refuse(assignment, refusal or "No device of this worker has a place for it now.")
            return
        if assignment.lease.key in self._hand:
            return
        nbytes = len(assignment.body) + assignment.item_count * offer.workload.dimension * 4
        state = batches.State.FETCHING if assignment.images else batches.State.RECEIVED
        entry = hand.InHand(assignment, state, seat.index, nbytes)
        self._hand[entry.key] = entry
        self.emptied.clear()
        if assignment.images:
            self._residents.load(seat, offer)
            self._take_in(entry, offer)
        else:
            self._give(entry, seat, offer, None)
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
        self._residents.wanted = tuple(resident)
        for seat, workload in self._checks.begin(check, self._seats.values()):
            seat.executor.check(workload)
        self._residents.pursue()
        self._note()

    # --- what the intake says

    def taken_in(self, key: str, taken: ports.Taken) -> None:
        """All images of a batch are decoded, or have failed: it goes to a device. Where its own has lost its process
        and no other can have it, it is kept for the next one."""
        entry = self._hand.get(key)
        if entry is None or entry.state is not batches.State.FETCHING:
            self._intake.drop(key)
            return
        offer = self._offers.get(entry.workload)
        if offer is None or taken.picture != offer.picture:
            self._apply(key, batches.Event.HANDED_BACK)
            return
        seat = self._residents.seat_of(entry.device, offer, self._hand)
        if seat is not None:
            entry.device, entry.kept = seat.index, None
            entry.nbytes += taken.nbytes
            self._apply(key, batches.Event.TAKEN_IN)
            self._give(entry, seat, offer, taken)
        elif not entry.keep(taken, self._clock.monotonic()) or not self._residents.returns(entry.device, offer):
            self._apply(key, batches.Event.HANDED_BACK)

    def not_taken_in(self, key: str, reason: str, message: str) -> None:
        """A batch of images as such cannot be read."""
        self._apply(key, batches.Event.FAILED, ports.Failure(reason, message, retryable=reason != "BAD_PAYLOAD"))

    # --- what the devices' sensors say

    def device_read(self, device: int, reading: health.Reading, verdict: health.Verdict) -> None:
        """A device was looked at. One that is out of order loses its batches to others, one that is hot finishes its
        own."""
        seat = self._seats[device]
        before, was_sick = seat.verdict, seat.sick
        seat.reading, seat.verdict = reading, verdict
        self._observer.device_read(reading)
        if (verdict.health, verdict.reason) == (before.health, before.reason):
            return
        log.warning("device_health", device=device, health=verdict.health.value, reason=verdict.reason)
        if seat.sick and not was_sick:
            seat.kill()
            for key in self._hand.on(seat.index):
                self._apply(key, batches.Event.HANDED_BACK)
        elif was_sick and not seat.sick and seat.executor.up:
            self._residents.introduce(seat, self._hand.awaited_on(seat.index))
        self._note()

    def identified(self, device: int, capacity: residency.Capacity) -> None:
        """More is known of a device than at the start; what it can serve is judged anew with the next session."""
        self._seats[device].capacity = capacity

    # --- what the executors say

    def executor_up(self, device: int) -> None:
        """A fresh process: it knows nothing yet."""
        seat = self._seats[device]
        self._residents.introduce(seat, self._hand.awaited_on(seat.index))
        self._deliver()
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
        lost = self._hand.on(seat.index)
        if seat.hung is None and seat.fault is None and not seat.restarting and not seat.sick:
            suspect = bool(seat.embedding) or (any(s in batches.BEGUN for s in lost.values()) and not seat.loading)
            seat.deaths = seat.deaths.another(suspect=suspect)
            seat.died()
        self._observer.executor_lost(device, hung=seat.hung is not None)
        for key, state in lost.items():
            entry = self._hand[key]
            loaded_for = state is batches.State.PREPARING or (entry.awaits_model and entry.workload in seat.loading)
            if seat.loading and loaded_for and not seat.restarting:
                # It waited for a model whose load killed the process; no half of it would fare better.
                self._apply(key, batches.Event.FAILED, ports.Failure("MODEL_UNAVAILABLE", _DIED_LOADING))
            else:
                # What died of an interactive call accuses no batch.
                innocent = bool(seat.embedding) and state in batches.BEGUN
                self._apply(key, batches.Event.HANDED_BACK if innocent else batches.Event.EXECUTOR_LOST)
        for workload in seat.lethal:
            self.unavailable(device, workload, _DIED_LOADING)
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

    def loaded(self, device: int, workload: str, facts: ports.Facts) -> None:
        """A model is resident, and its canary has passed."""
        seat = self._seats[device]
        if not seat.answered(workload):
            return
        seat.resident[workload] = facts
        seat.refused.discard(workload)
        seat.deaths_loading.pop(workload, None)
        if seat.fault is not None and seat.fault.workload == workload:
            seat.fault = None
            log.info("device_healthy", device=device, workload=workload)
        offer = self._offers.get(workload)
        if offer is not None:
            offer.learn(device, facts)
            offer.last_used[device] = self._clock.monotonic()
            if not any(workload in other.refused for other in self._seats.values()):
                offer.retry_at = None
            for entry in self._hand.awaiting(workload):
                self._take_in(entry, offer)
        log.info("model_loaded", workload=workload, device=device, seconds=round(facts.seconds, 3))
        self._observer.model_loaded(workload, facts.seconds)
        self._note()

    def unloaded(self, device: int, workload: str, unreturned_bytes: int) -> None:
        """A model has gone; `unreturned_bytes` are kept by the process although no model uses them."""
        seat = self._seats[device]
        seat.moved()
        log.info("model_unloaded", workload=workload, device=device, unreturned_bytes=unreturned_bytes)
        if unreturned_bytes > _KEEPS_BYTES:
            seat.keeps_memory = True
            self._restart_if_idle(seat)
        self._note()

    def budget(self, device: int, workload: str, budget: int) -> None:
        """The device ran out of memory; from now on its micro-batches are this small."""
        self._residents.run_out(device, workload, budget)

    def unavailable(self, device: int, workload: str, reason: str) -> None:
        """A model cannot be loaded; it is tried again later."""
        seat = self._seats[device]
        if not seat.answered(workload):
            return
        seat.refuse(workload, self._clock.monotonic())
        self._checks.settled(device, workload)
        offer = self._offers.get(workload)
        if offer is not None:
            offer.retry_at = self._clock.monotonic() + residents.RETRY_S
            # Its siblings may well have it.
            offer.unavailable = "" if self._residents.hopeful(offer) else reason
            self._find_another_model(seat, offer, reason)
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
        for key in self._hand.on(seat.index):
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
        offer = self._offers.get(entry.workload)
        if offer is not None:
            offer.measure(entry.assignment.to_compute, entry.nbytes, result)
        # From here on only the frames are held.
        entry.nbytes = sum(len(frame) for frame in result.frames)
        seat.deaths, seat.faults = devices.Deaths(), 0
        self._observer.batch_done(entry.workload, entry.assignment.item_count, result)
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
        for seat in self._seats.values():
            limit_s = seat.watch(seconds, waiting=self._awaited_from(seat))
            if limit_s is not None:
                self._kill_hung(seat, limit_s)
            again = self._offers.get(seat.due(now))
            if again is not None:
                seat.asked.add(again.name)
                seat.executor.know(again.workload, load_now=True, budget=again.budgets.get(seat.index, 0))
        for offer in self._offers.values():
            if offer.retry_at is not None and offer.retry_at <= now:
                offer.retry_at = now + residents.RETRY_S
                for seat in self._residents.fitting(offer):
                    self._residents.load(seat, offer, pursued=True)
        self._residents.pursue()
        for entry in self._residents.stranded(self._hand.awaiting()):
            self._apply(entry.key, batches.Event.HANDED_BACK)
        self._deliver()

    def fence(self) -> None:
        """The leases are not to be trusted any more: drops everything in hand."""
        if self._hand:
            log.warning("leases_dropped", batches=len(self._hand))
        for key in list(self._hand):
            self._apply(key, batches.Event.FENCED)

    def begin_drain(self) -> None:
        """Takes nothing new from now on."""
        self._draining = self.calls.draining = True
        self._note()

    def end_drain(self) -> None:
        """The grace is over: hands back whatever is not finished."""
        for key in list(self._hand):
            self._apply(key, batches.Event.HANDED_BACK)

    # --- what it looks like

    def in_hand(self) -> tuple[leases.Lease, ...]:
        """Leases of all batches in hand."""
        return self._hand.leases()

    def view(self) -> hand.View:
        """The whole current state, for a Status."""
        offered = tuple(offer.view(self._credits(offer)) for offer in self._offers.values())
        return hand.View(
            devices=tuple(seat.view(self._hand.on(seat.index).values()) for seat in self._seats.values()),
            offers=offered,
            # The sum, so that one workload in demand never takes the place that another has been promised.
            total_credits=sum(offer.credits for offer in offered),
            in_hand=self._hand.leases(),
            draining=self._draining,
            checked=self._checks.done(self._seats.values()),
        )

    # --- inside

    def _awaited_from(self, seat: seats.Seat) -> bool:
        has_any = self._hand.executor_has_any(seat.index) or self.calls.on(seat.index)
        return has_any or self._checks.awaits(seat.index) or bool(seat.asked)

    def _busy(self, seat: seats.Seat) -> set[str]:
        return self._hand.workloads_on(seat.index) | self.calls.workloads_on(seat.index)

    def _kill_hung(self, seat: seats.Seat, limit_s: float) -> None:
        """Says at once what becomes of its batches: a process that a driver holds may be long in dying."""
        seat.kill_hung()
        log.error("executor_hung", device=seat.index, work=seat.hung and seat.hung.value, limit_s=limit_s)
        on_it = self._hand.on(seat.index)
        accused = [key for key, state in on_it.items() if seat.accused(key, state)]
        seat.deaths = seat.deaths.another(suspect=bool(accused or seat.embedding))
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
            for key in self._hand.on(seat.index):
                if self._hand[key].workload == workload:
                    self._apply(key, batches.Event.FAILED, ports.Failure("MODEL_UNAVAILABLE", reason))
            self.unavailable(seat.index, workload, reason)

    def _take_in(self, entry: hand.InHand, offer: offers.Offer) -> None:
        """Has the images of a batch fetched and decoded, once it is known what the model looks at."""
        if offer.picture is None:
            if offer.load_s is not None:
                self.not_taken_in(entry.key, "BAD_PAYLOAD", f"Workload {offer.name!r} takes no images.")
            return
        body, entry.assignment = entry.assignment.body, replace(entry.assignment, body=b"")
        entry.taking_in = True
        self._intake.begin(
            entry.key, body, offer.picture,
            max_pixels=offer.workload.max_image_pixels, max_bytes=offer.workload.max_image_bytes,
            done=self.taken_in, failed=self.not_taken_in,
        )  # fmt: skip

    def _deliver(self) -> None:
        """Pictures that were kept, to whatever process there is now; they are given up when none is to come."""
        for entry in list(self._hand.values()):
            if entry.kept is not None:
                self.taken_in(entry.key, entry.kept)

    def _give(self, entry: hand.InHand, seat: seats.Seat, offer: offers.Offer, taken: ports.Taken | None) -> None:
        """Hands a batch to an executor, which may have to load its model first."""
        self._residents.place(seat, offer)
        seat.executor.assign(self._hand.assignment_of(entry), self._max_chunk_bytes, taken)
        # The executor has the body; a result is sent again, never computed again, so it is not kept here.
        entry.assignment = replace(entry.assignment, body=b"")

    def _find_another_model(self, seat: seats.Seat, offer: offers.Offer, reason: str) -> None:
        """Image batches that waited for a model which cannot be loaded on their device."""
        for entry in self._hand.awaiting(offer.name):
            if entry.device != seat.index:
                continue
            other = self._residents.seat_for(offer, self._hand)
            if other is None or not self._residents.load(other, offer):
                self._apply(entry.key, batches.Event.FAILED, ports.Failure("MODEL_UNAVAILABLE", reason))
            else:
                entry.device = other.index

    def _restart_if_idle(self, seat: seats.Seat) -> None:
        if seat.keeps_memory and not self._hand.executor_has_any(seat.index) and not self.calls.on(seat.index):
            log.info("executor_restarted_for_memory", device=seat.index)
            seat.restart()

    def _refusal(self, offer: offers.Offer | None) -> str:
        if offer is None:
            return "This worker was never told about the workload."
        if self._draining:
            return "This worker is draining."
        return offer.unavailable

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
        before = entry.state
        if move.state is None:
            del self._hand[key]
            if not self._hand:
                self.emptied.set()
        else:
            entry.state = move.state
        self._pay(entry, before, move.effect, failure)
        if before is not move.state and (move.state is None or move.state is batches.State.FINISHED):
            self._left(entry)
            self._note()

    def _left(self, entry: hand.InHand) -> None:
        """No executor has the batch any more."""
        if entry.assignment.images:
            self._intake.drop(entry.key)
        offer = self._offers.get(entry.workload)
        if offer is not None:
            offer.last_used[entry.device] = self._clock.monotonic()
        self._restart_if_idle(self._seats[entry.device])

    def _pay(
        self, entry: hand.InHand, before: batches.State, effect: batches.Effect, failure: ports.Failure | None
    ) -> None:
        if effect is batches.Effect.SEND_RESULT:
            self._outbox.frames(entry.frames)
        elif effect is batches.Effect.REPORT_FAILURE and failure is not None:
            self._give_up(entry, failure)
        elif effect is batches.Effect.REPORT_CRASH:
            message = f"The executor of device {entry.device} died while it worked on this batch."
            self._give_up(entry, ports.Failure("EXECUTOR_CRASHED", message))
        elif effect is batches.Effect.HAND_BACK:
            self._stop(entry, before)
            self._give_up(entry, ports.Failure("WORKER_LOST", "Handed back untouched.", handed_back=True))
        elif effect is batches.Effect.STOP_WORK:
            self._stop(entry, before)

    def _give_up(self, entry: hand.InHand, failure: ports.Failure) -> None:
        self._observer.batch_failed(entry.workload, failure)
        self._outbox.failed(entry.assignment.lease, failure)

    def _stop(self, entry: hand.InHand, before: batches.State) -> None:
        seat = self._seats[entry.device]
        if seat.executor.up and before is not batches.State.FETCHING:
            seat.executor.cancel(entry.key)
            self._residents.ask_again(seat, entry.workload)

    def _measure_ack(self, entry: hand.InHand) -> None:
        ack_s = self._clock.monotonic() - entry.finished_at
        offer = self._offers.get(entry.workload)
        if offer is not None:
            offer.measure_ack(ack_s)
        self._observer.batch_acknowledged(entry.workload, ack_s)

    def _credits(self, offer: offers.Offer) -> int:
        if self._draining or offer.unavailable:
            return 0
        ready = sum(seat.ready for seat in self._residents.takers(offer))
        want = credits.wanted(offer.measured, ready, self._limits)
        return credits.bounded(want, offer.measured, self._hand.load(), self._limits)

    def _note(self) -> None:
        """Wakes the heartbeat if the scheduler would decide differently with what is known now.

        What is in hand and whether a device is busy changes with every batch and is left to the cadence.
        """
        digest: Mapping[str, object] = {
            "credits": {name: self._credits(offer) for name, offer in self._offers.items()},
            "unavailable": {name: offer.unavailable for name, offer in self._offers.items()},
            "devices": [seat.news for seat in self._seats.values()],
            "draining": self._draining,
            "checked": self._checks.done(self._seats.values()),
        }
        if digest != self._told:
            self._told = digest
            self.changed.set()
