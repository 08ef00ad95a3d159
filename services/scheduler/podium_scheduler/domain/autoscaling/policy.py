"""How to decide: the operator's limits, the wishes of each workload, and what time is worth.

Spans are in seconds, money in USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from podium_scheduler.domain import offers


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows. A pod costs from its create call until the provider's list shows it no more."""

    paused: bool = False
    """Nothing is rented and nothing is retired. Budgets hold, and drains under way come to their end."""
    min_pods: int = 0
    max_pods: int = 20
    """Every pod counts that may exist."""
    usd_per_hour: float | None = None
    usd_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator wants for a workload."""

    gpu_types: tuple[str, ...] = ()
    """The only ones, the most wanted first; the next when there is none. Empty: any, the cheapest for the work."""
    clouds: frozenset[offers.Cloud] = frozenset(offers.Cloud)
    """Where its data may go."""
    warm_pods: int = 0
    """Kept for it, work or not."""
    target_s: float = 3600.0
    """A job without a window is to be done within this time."""
    age_gate_s: float = 900.0
    """Items without a window, however few, get a pod when the oldest has waited so long."""
    depth_gate: int | None = None
    """As soon as so many items wait, nothing waits for a fuller pod."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How to decide."""

    limits: Limits = field(default_factory=Limits)
    wishes: Wishes = field(default_factory=Wishes)
    """Of every workload that has none of its own."""
    wishes_of: Mapping[str, Wishes] = field(default_factory=dict)
    idle_s: float = 30.0
    """A pod that has had nothing to do for so long goes."""
    undrains: bool = False
    """Whether a pod that drains can be given work again. Podium's cannot: its worker has been told to leave."""
    drain_grace_s: float = 300.0
    """How long a draining pod may take for what it has in hand."""
    termination_lag_s: float = 240.0
    """A generous bound of the time from the wish to destroy a pod until the list no longer shows it: here, two calls of
    the keeper, a list and the destroy call, that hang for as long as they may (`pod_watch.Patience.call`)."""
    round_s: float = 10.0
    """Between two decisions, at most."""
    max_spawns: int = 10
    """In one decision."""
    fill: float = 20.0
    """A pod that nothing presses for is rented for so many times its cold start of work: 20 is an overhead of 5%."""
    comfort: float = 0.5
    """The part of its window in which work is planned to be done, as long as that fills pods."""
    spare_share: float = 0.1
    """Work is planned to be done this part of its window before it is due; an offer without capacity is waited for
    meanwhile."""
    spare_cold_starts: float = 3.0
    """And so many cold starts before it is due at the least: time for a pod that fails and for another."""
    spare_most: float = 0.25
    """But never more than this part of its window."""
    alert_age_s: float = 86_400.0
    """Work that has waited for so long is told."""
    assumed_items_per_s: float = 50.0
    """Where nothing has been measured."""
    assumed_load_s: float = 30.0
    assumed_cold_start_s: float = 180.0
    assumed_end_s: float = 60.0
    """What an end takes as a rule, where it is weighed and not bounded."""

    def wishes_for(self, workload: str) -> Wishes:
        """Its own, or everybody's."""
        return self.wishes_of.get(workload, self.wishes)
