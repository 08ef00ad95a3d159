"""Whether a pod may come for a workload that no worker can serve: what the autoscaler saw last, for whoever gives up.

Promises: the answer rests on what the autoscaler decides on, so that what is waited for is what it rents. A pod that is
there or on its way, and an offer that fits the workload's needs and the operator's wishes, are a hope; that there is no
capacity now, no money, no room in the limits, or that the autoscaler is paused, takes none: completion windows end
such waiting. No offer that fits is none, nor is a model that pods could not load, several times. What is not known yet
is waited for.
"""

from __future__ import annotations

from collections.abc import Collection

from podium_scheduler.domain.autoscaling import capacity, observed, policy


class Outlook:
    """Of all workloads; the leader's."""

    def __init__(self) -> None:
        self._facts: observed.Observed | None = None
        self._speeds = capacity.Speeds(observed.Observed(), policy.Policy())
        self._silent: Collection[str] = ()

    def note(self, facts: observed.Observed, rules: policy.Policy, silent: Collection[str]) -> None:
        """What a decision rests on. `silent`: providers whose offers are not known."""
        self._facts, self._speeds, self._silent = facts, capacity.Speeds(facts, rules), silent

    def hope(self, workload: str) -> str:
        """What a workload can wait for, in words; empty: nothing."""
        facts = self._facts
        if facts is None:
            return "what pods there may be is not known yet"
        hopeless = bool(self.hopeless().get(workload))
        for pod in facts.pods:
            # Nothing more is rented for what is hopeless, but what is on its way already may do better.
            counts = pod.coming and pod.workload == workload if hopeless else pod.active and workload not in pod.unable
            if counts and self._speeds.items_per_s(workload, pod.offer) > 0:
                return f"a pod of {pod.offer.key} is {'on its way' if pod.coming else 'there'}"
        if hopeless:
            return ""
        for offer in self._speeds.fitting(workload):
            if offer.max_count != 0:
                return f"{offer.key} may be rented for it"
        return f"{min(self._silent)} has not told what it offers" if self._silent else ""

    def has_work(self, workload: str) -> bool:
        """Whether anything of it has no outcome yet."""
        demands = self._facts.demands if self._facts is not None else ()
        return any(demand.items for demand in demands if demand.workload == workload)

    def hopeless(self) -> dict[str, str]:
        """Workloads that no pod is rented for any more because none could load them, and why."""
        demands = self._facts.demands if self._facts is not None else ()
        return {demand.workload: demand.hopeless for demand in demands if demand.hopeless}
