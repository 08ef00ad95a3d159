"""What is known here about each workload: whether it can be served, what its batches cost, how many are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from podium_worker.app import ports
from podium_worker.domain import credits, pictures


@dataclass(frozen=True, slots=True)
class OfferView:
    """What the worker offers for one workload."""

    workload: str
    credits: int
    items_per_s: float
    load_s: float | None
    unavailable: str


@dataclass(slots=True)
class Offer:
    """One workload of the session."""

    workload: ports.Workload
    unavailable: str = ""
    retry_at: float | None = None
    measured: credits.Measured = field(default_factory=credits.Measured)
    items_per_s: float = 0.0
    load_s: float | None = None
    picture: pictures.Picture | None = None
    """What its model looks at, known once it has been loaded anywhere here."""
    memory_bytes: int = 0
    """What its weights took when it was last loaded; 0 before."""
    budgets: dict[int, int] = field(default_factory=dict)
    """Tokens or images of one micro-batch that each device has arrived at, over the lives of its executor."""
    taught: dict[int, int] = field(default_factory=dict)
    """Those of them that running out of memory has taught."""
    last_used: dict[int, float] = field(default_factory=dict)
    """When a batch of it last left each device; monotonic."""

    @property
    def name(self) -> str:
        """The workload's."""
        return self.workload.name

    @property
    def needs_bytes(self) -> int:
        """Memory that a device must have for it: measured, else what the registry says."""
        return self.memory_bytes or self.workload.needs.vram_bytes

    def learn(self, device: int, facts: ports.Facts) -> None:
        """Its model was loaded."""
        self.unavailable, self.load_s = "", facts.seconds
        self.memory_bytes = facts.memory_bytes or self.memory_bytes
        self.picture = facts.picture or self.picture
        if facts.budget:
            self.budgets[device] = facts.budget

    def run_out(self, device: int, budget: int) -> None:
        """The device ran out of memory with more than this."""
        self.budgets[device] = self.taught[device] = budget

    def measure_anew(self, device: int) -> None:
        """Something left the device: what fitted beside it says little about the next load."""
        self.budgets.pop(device, None)
        if device in self.taught:
            self.budgets[device] = self.taught[device]

    def measure(self, items: int, nbytes: int, result: ports.Result) -> None:
        """One of its batches was computed; `nbytes` is what is held of it."""
        if result.compute_s <= 0:
            return
        old = self.measured
        self.measured = credits.Measured(
            batch_s=credits.blend(old.batch_s, result.compute_s),
            batch_bytes=credits.blend(old.batch_bytes, float(nbytes)),
            ack_s=old.ack_s,
            fetch_s=credits.blend(old.fetch_s, result.fetch_s) if result.fetch_s else old.fetch_s,
        )
        self.items_per_s = credits.blend(self.items_per_s, items / result.compute_s)

    def measure_ack(self, ack_s: float) -> None:
        """The scheduler has one of its results, so long after it was ready."""
        old = self.measured
        self.measured = credits.Measured(
            old.batch_s, old.batch_bytes, credits.blend(old.ack_s, ack_s), fetch_s=old.fetch_s
        )

    def view(self, wanted: int) -> OfferView:
        """For the scheduler."""
        return OfferView(self.name, wanted, self.items_per_s, self.load_s, self.unavailable)


def ranks(wanted: Sequence[str]) -> dict[str, int]:
    """The place of each workload among those that the scheduler wants, 0 the most wanted."""
    return {name: rank for rank, name in enumerate(wanted)}
