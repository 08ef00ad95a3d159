"""Which workloads each worker should keep loaded: a plan from what waits, what is loaded where, and what loading costs.

Promises: no device is asked for more than fits. Every workload with work to do gets a device that can serve it, as far
as there is room; where there is not, the workloads take turns. A worker's list changes when that pays for the load, and
not when demand wiggles: what is loaded and has work stays, and another copy must save more time than its load takes.

What has no work is not listed: the worker keeps it as long as nothing else needs its place.

How it is found: each workload, in the order of `ranking`, is given the device that costs least, others moving over
where that makes room. What else is loaded and has work stays. Then copies are added, or take the place of others'
copies, while that pays. Pure: the same input gives the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WEIGHTS_SHARE = 0.8
"""Of a device's memory, for the weights of several models together; the rest is for what they compute. A model that is
alone may take more: its need is what the registry says of the whole device."""
MIN_TURN_S = 20.0
TURN_LOADS = 4.0
"""A workload whose turn has come keeps its place for so many times its load, MIN_TURN_S at least."""
MIN_GAIN_S = 5.0
GAIN_LOADS = 2.0
"""A copy must save so many times the time of its load, MIN_GAIN_S at least."""
GAIN_OVER_LOSS = 1.5
"""And so many times what the workload loses whose copy makes way, or the two would change places for a whim."""
MAX_NEW_COPIES = 16
"""In one plan: the next one goes on from there."""

Slot = tuple[int, int]
"""A device: the place of its worker among the workers, and its own among that worker's devices."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device in service."""

    name: str
    """Its type, as the measurements name it."""
    memory_bytes: int
    """0: not bounded."""
    fit: frozenset[str]
    """Workloads whose needs it meets."""
    resident: Mapping[str, int] = field(default_factory=dict)
    """Memory of each model that is loaded, in bytes."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that takes batches."""

    key: str
    devices: tuple[Device, ...]
    wanted: tuple[str, ...] = ()
    """What it was asked for last."""
    failed: frozenset[str] = frozenset()
    """Workloads that it could not load: others are asked first."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do of one workload."""

    workload: str
    work_s: float
    """Time that one device would take for what waits and what is under way. 0: nothing now, but lately."""
    waiting_s: float = 0.0
    """How long there has been work while nobody had it loaded; 0 while somebody has."""
    turn_s: float | None = None
    """How long it has been loaded somewhere; None: it is not."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a model takes on one type of device."""

    memory_bytes: int
    load_s: float


Models = Mapping[tuple[str, str], Model]
"""By workload and name of the device."""


def plan(workers: Sequence[Worker], demands: Sequence[Demand], models: Models) -> dict[str, tuple[str, ...]]:
    """The workloads that each worker should keep loaded, by the worker's key, the most wanted first.

    `models` has every workload of `demands` on every device that is fit for it.
    """
    ordered = sorted(workers, key=lambda worker: worker.key)
    order = ranking(ordered, demands, models)
    made = _Plan(ordered, {d.workload: d for d in demands}, models)
    for workload in order:
        made.cover(workload)
    made.keep(order)
    made.add_copies()
    return {worker.key: tuple(_listed(made, number, order)) for number, worker in enumerate(ordered)}


def ranking(workers: Sequence[Worker], demands: Sequence[Demand], models: Models) -> list[str]:
    """The workloads, those first that are to be placed first.

    Whose turn is not over, then what waits, the longest first, then whose turn is over; what has only had work lately
    comes last, and before it what no worker could load: it would keep a place that is of no use to it. While nothing
    waits there are no turns. Among equals the order of before holds, for a list should not
    change for nothing.
    """
    before: dict[str, int] = {}
    for worker in workers:
        for place, workload in enumerate(worker.wanted):
            before[workload] = min(place, before.get(workload, place))
    hopeless = {d.workload for d in demands if d.turn_s is None and not _may_load(workers, d.workload)}
    anybody_waits = any(d.turn_s is None and d.work_s > 0 and d.workload not in hopeless for d in demands)

    def rank(demand: Demand) -> tuple[int, float, int, str]:
        place = before.get(demand.workload, len(before))
        if demand.work_s <= 0:
            return (4, 0.0, place, demand.workload)
        if demand.workload in hopeless:
            return (3, 0.0, place, demand.workload)
        if demand.turn_s is None:
            return (1, -demand.waiting_s, place, demand.workload)
        over = anybody_waits and demand.turn_s >= turn_length_s(demand.workload, models)
        return (2 if over else 0, 0.0, place, demand.workload)

    return [d.workload for d in sorted(demands, key=rank)]


def _may_load(workers: Sequence[Worker], workload: str) -> bool:
    fit = (w for w in workers if any(workload in device.fit for device in w.devices))
    return any(workload not in worker.failed for worker in fit)


def turn_length_s(workload: str, models: Models) -> float:
    """How long a workload keeps its place when others wait for it."""
    slowest = max((m.load_s for (name, _), m in models.items() if name == workload), default=0.0)
    return max(MIN_TURN_S, TURN_LOADS * slowest)


class _Plan:
    """A plan in the making."""

    def __init__(self, workers: Sequence[Worker], demands: Mapping[str, Demand], models: Models) -> None:
        self.workers = workers
        self._demands = demands
        self._models = models
        self._devices = {(w, d): device for w, worker in enumerate(workers) for d, device in enumerate(worker.devices)}
        self.placed: dict[Slot, dict[str, int]] = {slot: {} for slot in self._devices}
        self._copies: Counter[str] = Counter()

    def cover(self, workload: str) -> None:
        """Gives a workload a device, if there is one or one can be made free without uncovering another.

        For what has no work now nothing is loaded, and nothing makes way.
        """
        if self._demands[workload].work_s > 0:
            self._place(workload, set())
            return
        for slot in self._slots(workload):
            if workload in self._devices[slot].resident and self._fits(slot, workload):
                self._put(slot, workload)
                return

    def keep(self, order: Sequence[str]) -> None:
        """What else is loaded, or was asked for, and has work: it stays where it is in nobody's way."""
        for workload in order:
            for slot in self._slots(workload):
                stays = workload in self._devices[slot].resident or self._is_loading(slot[0], workload)
                if stays and self._fits(slot, workload):
                    self._put(slot, workload)

    def _is_loading(self, number: int, workload: str) -> bool:
        worker = self.workers[number]
        if workload not in worker.wanted or self._demands[workload].work_s <= 0:
            return False
        slots = [(number, d) for d in range(len(worker.devices))]
        return not any(workload in self.placed[s] or workload in self._devices[s].resident for s in slots)

    def add_copies(self) -> None:
        """Adds copies while they pay for their loads. The workload with the most work for each of its copies goes
        first, so that they come to be in proportion to the work."""
        for _ in range(MAX_NEW_COPIES):
            found = max(self._gains(), default=None, key=lambda gain: gain[:2])
            if found is None:
                return
            _, workload, slot, victim = found
            if victim:
                self._take(slot, victim)
            self._put(slot, workload)

    def _gains(self) -> Iterator[tuple[float, str, Slot, str]]:
        """The best new copy of each workload that pays: work for each copy, workload, device, what makes way or ''."""
        for workload in sorted(self._demands):
            copies, work_s = self._copies[workload], self._demands[workload].work_s
            if not copies:
                continue
            gain = work_s / copies - work_s / (copies + 1)
            if gain <= MIN_GAIN_S:
                continue
            best: tuple[float, str, Slot, str] | None = None
            for slot in self._slots(workload):
                if workload in self.workers[slot[0]].failed:
                    continue
                for victim, loss in self._ways(slot, workload):
                    saved = gain - loss
                    least = max(MIN_GAIN_S, GAIN_LOADS * self._model(slot, workload).load_s)
                    if saved > least and gain > GAIN_OVER_LOSS * loss and (best is None or saved > best[0]):
                        best = (saved, workload, slot, victim)
            if best is not None:
                yield (work_s / copies, *best[1:])

    def _ways(self, slot: Slot, workload: str) -> Iterator[tuple[str, float]]:
        """How a workload fits on a device: what makes way, and the seconds that costs. Never the last copy of work."""
        if self._fits(slot, workload):
            yield "", 0.0
            return
        for victim in self.placed[slot]:
            copies, work_s = self._copies[victim], self._demands[victim].work_s
            if (copies > 1 or not work_s) and self._fits(slot, workload, without=frozenset({victim})):
                yield victim, work_s / (copies - 1) - work_s / copies if work_s else 0.0

    def _place(self, workload: str, tried: set[Slot]) -> bool:
        """Puts a workload on its best device; where none has room, others move over (an augmenting path)."""
        slots = self._slots(workload)
        for slot in slots:
            if self._fits(slot, workload):
                self._put(slot, workload)
                return True
        for slot in slots:
            if slot in tried:
                continue
            tried.add(slot)
            victims = self._victims(slot, workload)
            if victims is not None and self._swap(slot, workload, victims, tried):
                return True
        return False

    def _victims(self, slot: Slot, workload: str) -> list[str] | None:
        """What has to leave a device for a workload: one if one will do, else several; None when nothing helps."""
        held = sorted(self.placed[slot], key=lambda w: (self.placed[slot][w], w))
        for one in held:
            if self._fits(slot, workload, without=frozenset({one})):
                return [one]
        leaving: list[str] = []
        for one in reversed(held):
            leaving.append(one)
            if self._fits(slot, workload, without=frozenset(leaving)):
                return leaving
        return None

    def _swap(self, slot: Slot, workload: str, victims: Sequence[str], tried: set[Slot]) -> bool:
        before = {s: dict(held) for s, held in self.placed.items()}
        copies = Counter(self._copies)
        for victim in victims:
            self._take(slot, victim)
        self._put(slot, workload)
        if all(self._copies[victim] or self._place(victim, tried) for victim in victims):
            return True
        self.placed, self._copies = before, copies
        return False

    def _slots(self, workload: str) -> list[Slot]:
        """Devices that can serve a workload and are not to have it yet, the best first."""
        found = [
            slot
            for slot, device in self._devices.items()
            if workload in device.fit and workload not in self.placed[slot]
        ]
        return sorted(found, key=lambda slot: self._cost(slot, workload))

    def _cost(self, slot: Slot, workload: str) -> tuple[bool, bool, bool, float, float, float, Slot]:
        """Ascending: failed there, not loaded there, not asked for there, what is in the way, what is there to do."""
        worker, device = self.workers[slot[0]], self._devices[slot]
        others = {w: size for w, size in device.resident.items() if w != workload and w not in self.placed[slot]}
        work, reload_s = 0.0, 0.0
        if workload not in device.resident and not self._fits(slot, workload, beside=others):
            busy = {w: size for w, size in others.items() if w in self._demands}
            if not self._fits(slot, workload, beside=busy):
                work = sum(self._demands[w].work_s for w in busy)
            reload_s = sum(self._models[w, device.name].load_s for w in others if (w, device.name) in self._models)
        planned = sum(self._demands[w].work_s / max(1, self._copies[w]) for w in self.placed[slot])
        loaded, asked = workload in device.resident, workload in worker.wanted
        return (workload in worker.failed, not loaded, not asked, work, reload_s, planned, slot)

    def _fits(
        self,
        slot: Slot,
        workload: str,
        *,
        without: frozenset[str] = frozenset(),
        beside: Mapping[str, int] | None = None,
    ) -> bool:
        device = self._devices[slot]
        held = {w: size for w, size in self.placed[slot].items() if w not in without} | dict(beside or {})
        held[workload] = self._size(slot, workload)
        return fits(device, held)

    def _size(self, slot: Slot, workload: str) -> int:
        known = self._devices[slot].resident.get(workload, 0)
        return known or self._model(slot, workload).memory_bytes

    def _model(self, slot: Slot, workload: str) -> Model:
        return self._models[workload, self._devices[slot].name]

    def _put(self, slot: Slot, workload: str) -> None:
        self.placed[slot][workload] = self._size(slot, workload)
        self._copies[workload] += 1

    def _take(self, slot: Slot, workload: str) -> None:
        del self.placed[slot][workload]
        self._copies[workload] -= 1


def fits(device: Device, models: Mapping[str, int]) -> bool:
    """Whether a device has room for models of these sizes, in bytes, together."""
    if not device.memory_bytes or models.keys() <= device.resident.keys():
        # They are there.
        return True
    total = sum(models.values())
    return total <= device.memory_bytes * WEIGHTS_SHARE or (len(models) == 1 and total <= device.memory_bytes)


def _listed(made: _Plan, number: int, order: Sequence[str]) -> Iterator[str]:
    slots = [(number, place) for place in range(len(made.workers[number].devices))]
    wanted = {w for slot in slots for w in made.placed[slot]}
    return (workload for workload in order if workload in wanted)
