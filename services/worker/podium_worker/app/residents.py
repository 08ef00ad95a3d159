"""Which models each device is told to load and to give up; see domain/residency.py for what is worth keeping.

What the scheduler wants is served in its order. A wanted model that no device here holds goes before second copies of
those that some device holds; where the models in its way have batches in hand, these devices get no more of them until
it has its place. Nothing here waits; the executors tell when they have done what they were told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace

from podium_runtime import clock, logs
from podium_worker.app import hand, offers, ports, seats
from podium_worker.domain import devices, residency

log = logs.get_logger(__name__)

RETRY_S = 300.0
"""How long a model that failed to load is left alone before it is tried again: a try may take the better part of a
minute, and other work of the device waits for it."""
# Added to the rank of a model that another device here holds too: any wanted model that none holds is worth more.
_COPY = 1_000_000
_NO_WAY = 3
BusyWorkloads = Callable[[seats.Seat], Collection[str]]


class Residents:
    """The models of all devices. `offered` and `seated` are the worker's own, and change under it."""

    def __init__(
        self, offered: MutableMapping[str, offers.Offer], seated: Mapping[int, seats.Seat], busy: BusyWorkloads,
        observer: ports.Observer, time: clock.Clock,
    ) -> None:  # fmt: skip
        self._offers = offered
        self._seats = seated
        self._busy = busy
        self._observer = observer
        self._clock = time
        self.wanted: tuple[str, ...] = ()
        """Workloads to keep loaded, as the scheduler says it, the most wanted first."""

    def learn(self, workloads: Sequence[ports.Workload], backends: Sequence[str]) -> None:
        """The workloads of a new session; what is known of those that have not changed is kept."""
        old = dict(self._offers)
        self._offers.clear()
        hardware = [seat.executor.device for seat in self._seats.values()]
        for seat in self._seats.values():
            if seat.fault is not None and seat.fault.workload not in {w.name for w in workloads}:
                seat.fault = None
        for workload in workloads:
            known = old.get(workload.name)
            reason = devices.unavailable_reason(workload.needs, hardware, backends)
            if known is not None and known.workload.spec == workload.spec:
                if known.retry_at is None:
                    # More may be known of a device than before.
                    known.unavailable = reason
                self._offers[workload.name] = known
                continue
            reason = reason or workload.missing_files
            # Missing files may appear; a missing backend or device will not.
            retry_at = self._clock.monotonic() + RETRY_S if reason and workload.missing_files else None
            self._offers[workload.name] = offers.Offer(workload, reason, retry_at)
            for seat in self._seats.values():
                seat.refused.discard(workload.name)
                seat.deaths_loading.pop(workload.name, None)
                # One that does not serve now may do so later, by the same process.
                if seat.executor.up and devices.fits(workload.needs, seat.executor.device):
                    seat.executor.know(workload, load_now=seat.outdate(workload.name))

    def able(self, offer: offers.Offer) -> list[seats.Seat]:
        """Devices that can serve a workload, room aside, those that still boot included."""
        return [seat for seat in self.fitting(offer) if offer.name not in seat.refused]

    def fitting(self, offer: offers.Offer) -> list[seats.Seat]:
        """Devices whose process can be told about a workload."""
        return [
            seat
            for seat in self._seats.values()
            if seat.serves and devices.fits(offer.workload.needs, seat.executor.device)
        ]

    def hopeful(self, offer: offers.Offer) -> bool:
        """Whether any device may come to serve a workload, one that is out of service now included."""
        return any(
            offer.name not in seat.refused and devices.fits(offer.workload.needs, seat.executor.device)
            for seat in self._seats.values()
        )

    def takers(self, offer: offers.Offer) -> list[seats.Seat]:
        """Devices that can be given batches of a workload now: it is loaded there, or has or can be made a place."""
        return [
            seat
            for seat in self.able(offer)
            if seat.takes and offer.name not in seat.yielding and self._evictions(seat, offer) is not None
        ]

    def run_out(self, device: int, workload: str, budget: int) -> None:
        """A device ran out of memory with more than `budget`."""
        offer, resident = self._offers.get(workload), self._seats[device].resident
        if offer is not None:
            offer.run_out(device, budget)
        if workload in resident:
            resident[workload] = replace(resident[workload], budget=budget)

    def seat_for(self, offer: offers.Offer, held: hand.Hand) -> seats.Seat | None:
        """The fitting device with the fewest batches in hand; among equals, one that has the model."""
        load = held.load_by_device()
        return min(self.takers(offer), key=lambda s: (load[s.index], offer.name not in s.resident), default=None)

    def seat_of(self, device: int, offer: offers.Offer, held: hand.Hand) -> seats.Seat | None:
        """The device that a batch was meant for, or another if that one can no longer have it."""
        seat = self._seats[device]
        if seat in self.able(offer) and self.place(seat, offer):
            return seat
        return self.seat_for(offer, held)

    def returns(self, device: int, offer: offers.Offer) -> bool:
        """Whether a device has lost its process and the next one is to serve a workload."""
        seat = self._seats[device]
        lives_on = seat.fault is None and not seat.sick and not seat.deaths.faulted
        return lives_on and not seat.executor.up and offer.name not in seat.refused

    def place(self, seat: seats.Seat, offer: offers.Offer, *, pursued: bool = False) -> bool:
        """Makes room for a model on a device, unless it is there; False when there is none now.

        `pursued`: because it is wanted, and not for a batch. Only then may less wanted models make way: two workloads
        whose batches come together would else throw each other out.
        """
        if offer.name in seat.resident or offer.name in seat.asked:
            return True
        victims = self._evictions(seat, offer, pursued=pursued)
        if victims is None:
            return False
        for workload in victims:
            log.info("model_evicted", device=seat.index, workload=workload, by=offer.name)
            del seat.resident[workload]
            seat.executor.unload(workload)
            self._observer.model_unloaded(workload)
        if victims:
            for known in self._offers.values():
                known.measure_anew(seat.index)
        seat.asked.add(offer.name)
        seat.yielding.clear()
        return True

    def load(self, seat: seats.Seat, offer: offers.Offer, *, pursued: bool = False) -> bool:
        """Has a device load a model, if there is room; see `place`. Asking twice does no harm."""
        known = offer.name in seat.resident or offer.name in seat.asked
        if not self.place(seat, offer, pursued=pursued):
            return False
        if not known:
            seat.executor.know(offer.workload, load_now=True, budget=offer.budgets.get(seat.index, 0))
        return True

    def ask_again(self, seat: seats.Seat, workload: str) -> None:
        """A batch was taken back: an executor that was to load its model for it may say nothing about that now."""
        offer = self._offers.get(workload)
        if workload not in seat.asked:
            return
        if offer is None:
            seat.asked.discard(workload)
            seat.outdated.discard(workload)
            return
        if workload in seat.outdated:
            # The answer that is not to be believed may be the one that does not come.
            seat.executor.unload(workload)
        seat.executor.know(offer.workload, load_now=True, budget=offer.budgets.get(seat.index, 0))

    def stranded(self, waiting: Iterable[hand.InHand]) -> list[hand.InHand]:
        """Those of the image batches that wait for a model which their device is not going to load.

        The next process of a device loads what is awaited, unless there is none, or no room is left, or the workload is
        not offered any more.
        """
        found = []
        for entry in waiting:
            offer, seat = self._offers.get(entry.workload), self._seats[entry.device]
            if offer is None or offer.unavailable or (seat.deaths.faulted and not seat.executor.up):
                found.append(entry)
            elif seat.executor.up and not (seat in self.able(offer) and self.load(seat, offer)):
                found.append(entry)
        return found

    def introduce(self, seat: seats.Seat, awaited: Collection[str]) -> None:
        """Tells a fresh process about all workloads, and to load what is wanted or `awaited` there."""
        ranks = offers.ranks(self.wanted)
        held = {name for other in self._seats.values() if other is not seat for name in (*other.resident, *other.asked)}
        # What the others do not have goes first: it is nowhere else.
        order = sorted(self._offers.values(), key=lambda o: (o.name in held, ranks.get(o.name, len(ranks)), o.name))
        for offer in order:
            if not devices.fits(offer.workload.needs, seat.executor.device):
                continue
            blocked = offer.unavailable or not seat.serves or offer.name in seat.refused
            wanted = (offer.name in ranks or offer.name in awaited) and not blocked
            now = wanted and self.place(seat, offer)
            seat.executor.know(offer.workload, load_now=now, budget=offer.budgets.get(seat.index, 0))

    def pursue(self) -> None:
        """Takes a step towards what is wanted."""
        for seat in self._seats.values():
            seat.yielding.clear()
        wanted = [self._offers[name] for name in self.wanted if name in self._offers]
        wanted = [offer for offer in wanted if not offer.unavailable]
        for offer in wanted:
            able = self.able(offer)
            if able and not any(self._holds(seat, offer.name) for seat in able):
                best = self._best(able, offer)
                if not any(self.load(seat, offer, pursued=True) for seat in best):
                    self._clear_the_way(best, offer)
        for offer in wanted:
            for seat in self.able(offer):
                # Second copies only where they are in nobody's way.
                if not self._holds(seat, offer.name) and self._evictions(seat, offer) == ():
                    self.load(seat, offer)

    def _best(self, able: Sequence[seats.Seat], offer: offers.Offer) -> list[seats.Seat]:
        """The devices where the least wanted models are in the way of one that none holds, the roomiest first.

        Batches in hand do not matter: what is wanted here would only have to be loaded again elsewhere.
        """
        tolls = {seat.index: self._toll(seat, offer) for seat in able}
        least = min(tolls.values())
        return sorted((seat for seat in able if tolls[seat.index] == least), key=self._room, reverse=True)

    def _toll(self, seat: seats.Seat, offer: offers.Offer) -> int:
        """0: only unwanted models are in the way, if any; 1: copies too; 2: others too; _NO_WAY."""
        victims = self._in_the_way(seat, offer)
        if victims is None:
            return _NO_WAY
        ranks = {resident.workload: resident.rank for resident in self._present(seat)}
        found = [rank for rank in map(ranks.get, victims) if rank is not None]
        return 0 if not found else 1 if min(found) >= _COPY else 2

    def _clear_the_way(self, able: Sequence[seats.Seat], offer: offers.Offer) -> None:
        """Some device stops taking what is in the way of a wanted model."""
        for seat in able:
            victims = self._in_the_way(seat, offer)
            if victims:
                seat.yielding.update(victims)
                return

    def _in_the_way(self, seat: seats.Seat, offer: offers.Offer) -> tuple[str, ...] | None:
        present = [replace(resident, busy=resident.workload in seat.asked) for resident in self._present(seat)]
        return residency.evictions(present, self._candidate(seat, offer, pursued=True), seat.capacity)

    def _evictions(self, seat: seats.Seat, offer: offers.Offer, *, pursued: bool = False) -> tuple[str, ...] | None:
        if not seat.capacity.shared_bytes or self._holds(seat, offer.name):
            return ()
        return residency.evictions(self._present(seat), self._candidate(seat, offer, pursued=pursued), seat.capacity)

    def _candidate(self, seat: seats.Seat, offer: offers.Offer, *, pursued: bool) -> residency.Candidate:
        rank = offers.ranks(self.wanted).get(offer.name)
        elsewhere = any(self._holds(other, offer.name) for other in self._seats.values() if other is not seat)
        if rank is not None and (elsewhere or not pursued):
            rank += _COPY
        return residency.Candidate(offer.name, offer.needs_bytes, rank)

    def _present(self, seat: seats.Seat) -> list[residency.Resident]:
        """What takes memory on a device: the models that are loaded, and those that it was told to load."""
        now, busy, ranks = self._clock.monotonic(), self._busy(seat), offers.ranks(self.wanted)
        present = []
        for name in (*seat.resident, *(seat.asked - seat.resident.keys())):
            offer, facts = self._offers.get(name), seat.resident.get(name)
            rank = ranks.get(name)
            if rank is not None and any(name in other.resident for other in self._seats.values() if other is not seat):
                rank += _COPY
            memory = facts.memory_bytes if facts else offer.needs_bytes if offer else 0
            used_at = offer.last_used.get(seat.index, now) if offer else float("-inf")
            present.append(
                residency.Resident(
                    name, memory, facts.seconds if facts else 0.0, now - used_at, facts is None or name in busy, rank
                )
            )
        return present

    def _room(self, seat: seats.Seat) -> float:
        if not seat.capacity.shared_bytes:
            return float("inf")
        return seat.capacity.shared_bytes - sum(resident.memory_bytes for resident in self._present(seat))

    @staticmethod
    def _holds(seat: seats.Seat, workload: str) -> bool:
        return workload in seat.resident or workload in seat.asked
