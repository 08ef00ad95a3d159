"""The operator's limits, kept to while pods are added: how many there may be, and the money.

Promises, as long as a pod is gone within the termination lag after its destroy call and rounds are on time:

- the prices of all pods that may exist together never exceed the dollars per hour;
- the day's spend never exceeds the dollars per day. For every pod the money is set aside that it takes to get rid of it
  in good order: a round, the drain's grace, the termination lag. When that no longer fits, it has to drain.

Pods that are on their way count from the intent on, those being destroyed until they are gone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import words
from podium_scheduler.domain.autoscaling.observed import Pod
from podium_scheduler.domain.autoscaling.policy import Policy

_TRIFLE = 1e-9
"""Sums of floats are compared with this much to spare."""


class Purse:
    """What is committed, and what may still be."""

    def __init__(self, fleet: Iterable[Pod], spent_today_usd: float, policy: Policy, now: float) -> None:
        self._policy = policy
        self._limits = policy.limits
        self._spent = spent_today_usd
        self._now = now
        self.pods = 0
        self.usd_per_hour = 0.0
        self.set_aside_usd = 0.0
        self._of_offer: Counter[str] = Counter()
        self._spawns = policy.max_spawns
        for pod in fleet:
            self.pods += 1
            self.usd_per_hour += pod.offer.price_usd_per_hour
            self.set_aside_usd += self.farewell_usd(pod)
            self._of_offer[pod.offer.key] += 1

    def farewell_usd(self, pod: Pod) -> float:
        """What a pod costs until it is gone, when it is let go in the next round."""
        return pod.offer.usd_per_s * self.farewell_s(pod)

    def farewell_s(self, pod: Pod) -> float:
        """How long it may take until it is gone, when it is let go in the next round."""
        passed = max(0.0, self._now - (pod.changed if pod.changed is not None else self._now))
        policy = self._policy
        if pod.state is pods.State.DESTROYING:
            return max(0.0, policy.termination_lag_s - passed)
        # The end of the grace is seen up to a round later.
        end_s = policy.round_s + policy.termination_lag_s
        if pod.state is pods.State.DRAINING:
            return max(0.0, policy.drain_grace_s - passed) + end_s
        return policy.round_s + policy.drain_grace_s + end_s

    def affords(self, offer: offers.Offer, coming_s: float) -> tuple[int, str]:
        """How many pods of an offer may be rented now, and what bounds them."""
        bounds = [
            (self._spawns, f"at most {words.many(self._policy.max_spawns, 'pod')} a round"),
            (self._limits.max_pods - self.pods, f"the limit of {words.many(self._limits.max_pods, 'pod')}"),
        ]
        if offer.max_count is not None:
            bounds.append((offer.max_count - self._of_offer[offer.key], f"{offer.max_count} of {offer.key} at most"))
        if self._limits.usd_per_hour is not None:
            left = self._limits.usd_per_hour - self.usd_per_hour
            why = f"the budget of {words.usd(self._limits.usd_per_hour)}/h, of which {words.usd(left)}/h is left"
            bounds.append((_times(left, offer.price_usd_per_hour), why))
        if self._limits.usd_per_day is not None:
            left = self._limits.usd_per_day - self._spent - self.set_aside_usd
            why = f"the budget of {words.usd(self._limits.usd_per_day)} a day, of which {words.usd(left)} is free"
            bounds.append((_times(left, self._commitment_usd(offer, coming_s)), why))
        count, why = min(bounds)
        return max(0, count), why

    def rent(self, offer: offers.Offer, coming_s: float) -> None:
        """Counts one more pod."""
        self._spawns -= 1
        self.pods += 1
        self.usd_per_hour += offer.price_usd_per_hour
        self.set_aside_usd += self._commitment_usd(offer, coming_s)
        self._of_offer[offer.key] += 1

    def take_back(self, pod: Pod) -> bool:
        """Counts a draining pod as one that stays, if that is allowed."""
        limits, policy = self._limits, self._policy
        stay_s = 2 * policy.round_s + policy.drain_grace_s + policy.termination_lag_s
        more = pod.offer.usd_per_s * stay_s - self.farewell_usd(pod)
        if self.pods > limits.max_pods or self.over_hour(self.usd_per_hour):
            return False
        if limits.usd_per_day is not None and self._spent + self.set_aside_usd + more > limits.usd_per_day:
            return False
        self.set_aside_usd += more
        return True

    def over_day(self) -> float:
        """USD by which the day's money would not do, were all let go in the next round and not now."""
        if self._limits.usd_per_day is None:
            return 0.0
        return max(0.0, self._spent + self.set_aside_usd - self._limits.usd_per_day)

    def over_hour(self, active_usd_per_hour: float) -> float:
        """USD per hour by which pods that are to stay cost too much together."""
        if self._limits.usd_per_hour is None:
            return 0.0
        over = active_usd_per_hour - self._limits.usd_per_hour
        return over if over > _TRIFLE else 0.0

    def _commitment_usd(self, offer: offers.Offer, coming_s: float) -> float:
        """What a pod costs that does nothing but come and go: less would be wasted."""
        policy = self._policy
        stay_s = coming_s + 2 * policy.round_s + policy.drain_grace_s + policy.termination_lag_s
        return offer.usd_per_s * stay_s


def _times(money: float, price: float) -> int:
    if price <= 0:
        return 1_000_000
    return math.floor((money + _TRIFLE) / price)
