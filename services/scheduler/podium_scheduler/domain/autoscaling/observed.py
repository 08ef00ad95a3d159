"""What a decision rests on: work and when it is due, pods, offers, measurements, money spent.

Times are seconds of one clock, the database's. Items are those without an outcome, under way ones included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from podium_scheduler.domain import offers, pods


@dataclass(frozen=True, slots=True)
class Due:
    """Items of a workload that came at about the same time and are due at about the same time."""

    items: int
    since: float
    """When the oldest was accepted."""
    by: float | None = None
    """When the first of them expires; None: they have no window."""
    usd_per_item: float | None = None
    """The most that an item may cost: what is left of its job's budget, over what is left of its items; None: any."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The work of one workload. The ledger sums it up in a few dozen Dues at most, whatever the number of jobs."""

    workload: str
    due: tuple[Due, ...] = ()
    """What pods can do."""
    needs: offers.Needs = field(default_factory=offers.Needs)
    arrivals_per_s: float = 0.0
    """Items that came per second lately; 0: unknown."""
    window_s: float | None = None
    """The shortest completion window of the jobs that came lately; None: they had none."""
    held: tuple[Due, ...] = ()
    """What waits for results to be read, as its own would find no room: it has no pod rented, nor kept idle."""
    failed_on: frozenset[str] = frozenset()
    """Offers, by key, whose pods lately could not load it."""
    hopeless: str = ""
    """Why no pod is rented for it any more: none could load it, several times. Empty: they are."""

    @property
    def items(self) -> int:
        """All that pods can do."""
        return sum(due.items for due in self.due)

    @property
    def items_held(self) -> int:
        """All that waits for results to be read."""
        return sum(due.items for due in self.held)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that is not in a final state."""

    pod_id: UUID
    state: pods.State
    offer: offers.Offer
    """At the price that it was rented for."""
    born: float
    """When its intent was committed."""
    workload: str = ""
    """What it was rented for."""
    ready: float | None = None
    """When it became READY."""
    last_active: float | None = None
    """When its last batch or load ended."""
    loading: bool = False
    batches_in_hand: int = 0
    resident: frozenset[str] = frozenset()
    """Workloads that it has loaded."""
    unable: frozenset[str] = frozenset()
    """Workloads that it cannot serve, by its worker's word."""
    changed: float | None = None
    """When it began to drain, or to be destroyed."""
    cause: pods.Reason = pods.Reason.NONE
    """Why it drains."""
    asked_for: bool = False
    """An operator asked for it by hand: it comes for no work in particular."""

    @property
    def coming(self) -> bool:
        """It is on its way to READY."""
        return self.state in _COMING

    @property
    def active(self) -> bool:
        """It serves, or is going to."""
        return self.coming or self.state is pods.State.READY

    @property
    def busy(self) -> bool:
        """It has something in hand that its end would destroy."""
        return self.loading or self.batches_in_hand > 0

    def is_warm(self, workload: str) -> bool:
        """It has the workload loaded, or was rented for it and may come to load it."""
        return workload in self.resident or (self.workload == workload and workload not in self.unable)

    def idle_s(self, now: float) -> float:
        """How long it has had nothing to do: since its last activity, or since it came."""
        if self.busy or self.ready is None:
            return 0.0
        return max(0.0, now - max(self.ready, self.last_active or self.ready))


_COMING = frozenset({pods.State.INTENDED, pods.State.CREATING, pods.State.STARTING})


@dataclass(frozen=True, slots=True)
class Backoff:
    """An offer whose newest pods did not come up is left alone for a while."""

    until: float
    cause: pods.Reason
    """What became of the newest of them."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision rests on."""

    demands: tuple[Demand, ...] = ()
    offers: tuple[offers.Offer, ...] = ()
    pods: tuple[Pod, ...] = ()
    items_per_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Of one GPU, by workload and device."""
    load_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Of a model, by workload and device."""
    cold_start_s: Mapping[str, float] = field(default_factory=dict)
    """From intent to READY, by the offer's key."""
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    """Offers that lately could not be had, by key."""
    unknown_offers: Mapping[str, str] = field(default_factory=dict)
    """Providers that do not tell what they offer, by name, and why, in words."""
    spent_today_usd: float = 0.0
    """Up to now, by all pods that lived today."""

    def asked_again(self, key: str) -> float:
        """When an offer that could not be had may be asked for again; 0: at any time."""
        backoff = self.backoffs.get(key)
        return 0.0 if backoff is None else backoff.until
