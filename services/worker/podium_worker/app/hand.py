"""A batch in the worker's hand, and what the worker looks like from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from podium_worker.app import offers, ports, seats
from podium_worker.domain import batches, credits, leases

_MOST_DOUBTS = 1_000
"""Of batches that are remembered; whoever is forgotten may have company once more."""
_KEPT_FOR_S = 60.0
"""How long pictures may wait for a process. One that can come at all comes within a quarter of that."""


@dataclass(slots=True)
class InHand:
    """One batch, from its Assign to its Ack."""

    assignment: ports.Assignment
    """Without its body, once somebody else has that."""
    state: batches.State
    device: int
    """Index of the device that is to compute it."""
    nbytes: int
    """What is held of it: payload, pictures and result, about."""
    frames: Sequence[bytes] = ()
    """Its serialized result, once it is finished."""
    finished_at: float = 0.0
    taking_in: bool = False
    """Whether the intake has it; an image batch that waits for its model is not there yet."""
    kept: ports.Taken | None = None
    """Its pictures, while they wait for the next process of its device."""
    kept_since: float = 0.0
    """Monotonic."""

    @property
    def key(self) -> str:
        """Names the attempt inside this worker."""
        return self.assignment.lease.key

    @property
    def workload(self) -> str:
        """Name of its workload."""
        return self.assignment.workload

    @property
    def awaits_model(self) -> bool:
        """Whether its images cannot even be fetched before its model is loaded."""
        return self.state is batches.State.FETCHING and not self.taking_in

    def keep(self, taken: ports.Taken, now: float) -> bool:
        """Keeps its pictures for a while; False when that is over."""
        if self.kept is None:
            self.kept, self.kept_since = taken, now
        return now - self.kept_since < _KEPT_FOR_S


class Hand(dict[str, InHand]):
    """The batches in hand by their keys, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self._doubtful: dict[int, None] = {}

    def doubt(self, key: str) -> None:
        """A process died with a batch and interactive calls on its device: that accuses neither, but when the batch
        comes here again, it has no company, and one that kills is found out. A key that is not here is ignored."""
        if key in self:
            self._doubtful[self[key].assignment.lease.batch_id] = None
        if len(self._doubtful) > _MOST_DOUBTS:
            del self._doubtful[next(iter(self._doubtful))]

    def assignment_of(self, entry: InHand) -> ports.Assignment:
        """As an executor gets it."""
        return replace(entry.assignment, alone=entry.assignment.lease.batch_id in self._doubtful)

    def on(self, device: int) -> dict[str, batches.State]:
        """Batches that a device has, or is meant to have, and has not finished."""
        return {
            key: entry.state
            for key, entry in self.items()
            if entry.device == device and entry.state is not batches.State.FINISHED
        }

    def workloads_on(self, device: int) -> set[str]:
        """Workloads of these."""
        return {
            entry.workload
            for entry in self.values()
            if entry.device == device and entry.state is not batches.State.FINISHED
        }

    def executor_has_any(self, device: int) -> bool:
        """Whether the process of a device has something to move on."""
        return any(state in batches.AT_EXECUTOR for state in self.on(device).values())

    def awaiting(self, workload: str = "") -> list[InHand]:
        """Image batches that wait for the model of a workload, or of any."""
        return [entry for entry in self.values() if entry.awaits_model and workload in ("", entry.workload)]

    def awaited_on(self, device: int) -> set[str]:
        """Workloads whose image batches wait for a model on a device."""
        return {entry.workload for entry in self.values() if entry.awaits_model and entry.device == device}

    def load_by_device(self) -> Counter[int]:
        """How many each device has, or is meant to have, and has not finished."""
        return Counter(entry.device for entry in self.values() if entry.state is not batches.State.FINISHED)

    def leases(self) -> tuple[leases.Lease, ...]:
        """Of all of them."""
        return tuple(entry.assignment.lease for entry in self.values())

    def load(self) -> credits.Load:
        """What they take."""
        return credits.Load(len(self), sum(entry.nbytes for entry in self.values()))


@dataclass(frozen=True, slots=True)
class View:
    """The whole current state, for a Status."""

    devices: tuple[seats.DeviceView, ...]
    offers: tuple[offers.OfferView, ...]
    total_credits: int
    in_hand: tuple[leases.Lease, ...]
    draining: bool
    checked: int = 0
    """The newest check for which all canaries have passed."""
