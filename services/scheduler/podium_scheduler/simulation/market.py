"""Simulated clouds: what they offer, at which prices, and how they fail.

All figures are assumptions for the sake of comparison, made like the public price lists and not measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from podium_scheduler.domain import offers
from podium_scheduler.simulation.traces import ITEMS_PER_S, WORKLOAD

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Stall:
    """One offer and its ways. A pod keeps the price that it was rented at."""

    offer: offers.Offer
    day_price_usd_per_hour: float | None = None
    """Its price between 12:00 and 20:00; None: as at night."""
    outages: tuple[tuple[float, float], ...] = ()
    """From when until when it has no capacity."""
    cold_start_s: float = 90.0
    """The least time from the create call until its worker registers."""
    cold_start_more_s: float = 30.0
    """And the mean of what comes on top."""
    boot_failures: float = 0.0
    """The share of pods that never come up."""
    unclear_answers: float = 0.0
    """The share of create calls whose answer does not tell; every other one of them has made a pod."""
    mean_life_s: float | None = None
    """Pods die suddenly after this long on average; None: never."""

    def priced(self, now: float) -> offers.Offer:
        """The offer at its present price."""
        if self.day_price_usd_per_hour is None or not 0.5 <= now % _DAY_S / _DAY_S < 20 / 24:
            return self.offer
        return replace(self.offer, price_usd_per_hour=self.day_price_usd_per_hour)

    @property
    def least_usd_per_hour(self) -> float:
        """Its lowest price."""
        return min(self.offer.price_usd_per_hour, self.day_price_usd_per_hour or self.offer.price_usd_per_hour)

    def has_capacity(self, now: float) -> bool:
        """Whether a create call succeeds."""
        return not any(begin <= now < end for begin, end in self.outages)

    def cold_start(self, dice: random.Random) -> float:
        """The time that one pod takes."""
        return self.cold_start_s + min(dice.expovariate(1 / self.cold_start_more_s), 4 * self.cold_start_more_s)


@dataclass(frozen=True, slots=True)
class Market:
    """All that can be rented, and how fast things run there."""

    stalls: tuple[Stall, ...]
    items_per_s: Mapping[tuple[str, str], float]
    """At best; batches take up to `slowdown` longer."""
    load_s: Mapping[tuple[str, str], float]
    termination_lag_s: float = 15.0
    """From a destroy call until the list no longer shows the pod."""
    slowdown: float = 0.06
    boot_patience_s: float = 360.0
    """After this a pod whose worker has not registered is given up."""
    list_lag_s: float = 4.0
    """How long the list may not show what was made, and show what is gone."""
    session_grace_s: float = 11.5
    """From the death of a worker until its session has ended: its lease, and the grace for coming back."""
    by_key: Mapping[str, Stall] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", {stall.offer.key: stall for stall in self.stalls})

    def rate(self, workload: str, offer: offers.Offer) -> float:
        """Items per second of a pod at its best; 0: it does not serve the workload."""
        return self.items_per_s.get((workload, offer.device), 0.0) * max(1, offer.gpu_count)


def built_in(dice: random.Random, days: int = 3, workloads: tuple[str, ...] = (WORKLOAD,)) -> Market:
    """A cheap cloud that fails, the same GPU on one that does not at twice the price, and a big GPU."""
    gb = 1 << 30
    outages = tuple((at, at + dice.uniform(600, 2400)) for at in (_DAY_S * (n + dice.random()) for n in range(days)))
    shared = offers.Offer("cloud", "RTX 4090", 1, 0.34, 24 * gb, "8.9", cloud=offers.Cloud.COMMUNITY)
    safe = offers.Offer("cloud", "RTX 4090", 1, 0.69, 24 * gb, "8.9", cloud=offers.Cloud.SECURE)
    big = offers.Offer("cloud", "H100", 1, 2.99, 80 * gb, "9.0", cloud=offers.Cloud.SECURE)
    return Market(
        stalls=(
            Stall(shared, 0.36, outages, boot_failures=0.03, unclear_answers=0.02, mean_life_s=60 * 3600.0),
            Stall(safe, cold_start_s=60.0, cold_start_more_s=15.0),
            Stall(big, cold_start_s=60.0, cold_start_more_s=15.0),
        ),
        items_per_s={(w, "RTX 4090"): float(ITEMS_PER_S) for w in workloads}
        | {(w, "H100"): 3.5 * ITEMS_PER_S for w in workloads},
        load_s={(w, device): 20.0 for w in workloads for device in ("RTX 4090", "H100")},
    )
