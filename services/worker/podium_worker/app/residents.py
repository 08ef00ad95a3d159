"""Which models each device is told to load and to give up; see domain/residency.py for what is worth keeping.

What the scheduler wants is served in its order. A wanted model that no device here holds goes before second copies of
those that some device holds; where the models in its way have batches in hand, these devices get no more of them until
it has its place. Nothing here waits; the executors tell when they have done what they were told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import replace

from podium_runtime import clock, logs
from podium_worker.app import offers, ports, seats
from podium_worker.domain import devices, residency

log = logs.get_logger(__name__)

RETRY_S = 300.0
"""How long a model that failed to load is left alone before it is tried again: a try may take the better part of a
minute, and other work of the device waits for it."""
# Added to the rank of a model that another device here holds too: any wanted model that none holds is worth more.
_COPY = 1_000_000
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
        for seat in self._seats.values():
            if seat.fault is not None and seat.fault.workload not in {w.name for w in workloads}:
                seat.fault = None
        for workload in workloads:
            known = old.get(workload.name)
            if known is not None and known.workload.spec == workload.spec:
                self._offers[workload.name] = known
                continue
            hardware = [seat.executor.device for seat in self._seats.values()]
            reason = devices.unavailable_reason(workload.needs, hardware, backends) or workload.missing_files
            # Missing files may appear; a missing backend or device will not.
            retry_at = self._clock.monotonic() + RETRY_S if reason and workload.missing_files else None
            offer = self._offers[workload.name] = offers.Offer(workload, reason, retry_at)
            for seat in self._seats.values():
                seat.refused.discard(workload.name)
            for seat in self.able(offer):
                seat.executor.know(workload, load_now=False)

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

    def takers(self, offer: offers.Offer) -> list[seats.Seat]:
        """Devices that can be given batches of a workload now: it is loaded there, or has or can be made a place."""
        return [
            seat
            for seat in self.able(offer)
            if seat.takes and offer.name not in seat.yielding and self._evictions(seat, offer) is not None
        ]

    def place(self, seat: seats.Seat, offer: offers.Offer) -> bool:
        """Makes room for a model on a device, unless it is there; False when there is none now."""
        if offer.name in seat.resident or offer.name in seat.asked:
            return True
        victims = self._evictions(seat, offer)
        if victims is None:
            return False
        for workload in victims:
            log.info("model_evicted", device=seat.index, workload=workload, by=offer.name)
            del seat.resident[workload]
            seat.executor.unload(workload)
            self._observer.model_unloaded(workload)
        seat.asked.add(offer.name)
        seat.yielding.clear()
        return True

    def load(self, seat: seats.Seat, offer: offers.Offer) -> bool:
        """Has a device load a model, if there is room. Asking twice does no harm."""
        known = offer.name in seat.resident or offer.name in seat.asked
        if not self.place(seat, offer):
            return False
        if not known:
            seat.executor.know(offer.workload, load_now=True, budget=offer.budgets.get(seat.index, 0))
        return True

    def introduce(self, seat: seats.Seat, awaited: Collection[str]) -> None:
        """Tells a fresh process about all workloads, and to load what is wanted or `awaited` there."""
        ranks = offers.ranks(self.wanted)
        for offer in sorted(self._offers.values(), key=lambda o: (ranks.get(o.name, len(ranks)), o.name)):
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
            able = sorted(self.able(offer), key=self._room, reverse=True)
            if able and not any(self._holds(seat, offer.name) for seat in able):
                if not any(self.load(seat, offer) for seat in able):
                    self._clear_the_way(able, offer)
        for offer in wanted:
            for seat in self.able(offer):
                # Second copies only where they are in nobody's way.
                if not self._holds(seat, offer.name) and self._evictions(seat, offer) == ():
                    self.load(seat, offer)

    def _clear_the_way(self, able: Sequence[seats.Seat], offer: offers.Offer) -> None:
        """Some device stops taking what is in the way of a wanted model."""
        for seat in able:
            present = [replace(resident, busy=resident.workload in seat.asked) for resident in self._present(seat)]
            victims = residency.evictions(present, self._candidate(offer), seat.capacity)
            if victims:
                seat.yielding.update(victims)
                return

    def _evictions(self, seat: seats.Seat, offer: offers.Offer) -> tuple[str, ...] | None:
        if self._holds(seat, offer.name):
            return ()
        return residency.evictions(self._present(seat), self._candidate(offer), seat.capacity)

    def _candidate(self, offer: offers.Offer) -> residency.Candidate:
        return residency.Candidate(offer.name, offer.needs_bytes, offers.ranks(self.wanted).get(offer.name))

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
