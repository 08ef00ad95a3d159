"""What decides in a run: the scheduler's own autoscaler, and the two simple rules that it is compared with.

The simple rules rent the offer with the cheapest item, wait out its lack of capacity, and know nothing of windows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import autoscaler
from podium_scheduler.domain.autoscaling.actions import Action, Destroy, Drain, Spawn
from podium_scheduler.domain.autoscaling.observed import Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.simulation.market import Market
from podium_scheduler.simulation.traces import Trace
from podium_scheduler.simulation.world import Rule


def podium(policy: Policy) -> Rule:
    """The scheduler's own."""
    return functools.partial(_podium, policy)


def _podium(policy: Policy, observed: Observed, now: float) -> list[Action]:
    return autoscaler.decide(observed, policy, now)


def fixed_pool(size: int) -> Rule:
    """So many pods, always; one that is lost is replaced."""

    def decide(observed: Observed, now: float) -> list[Action]:
        lacking = size - sum(pod.active for pod in observed.pods)
        return _spawns(observed, now, lacking, f"{size} pods, always")

    return decide


def peak_pods(trace: Trace, market: Market) -> int:
    """The pods of the cheapest offer that the busiest span of the trace needs to meet its windows."""
    busiest = 1.0
    rates = {w: market.items_per_s[w, _cheapest(market, w)] for w in {arrival.workload for arrival in trace.arrivals}}
    for begin in {arrival.at_s for arrival in trace.arrivals}:
        work_s = 0.0
        for arrival in sorted((a for a in trace.arrivals if a.at_s >= begin), key=lambda a: a.due_s):
            work_s += arrival.items / rates[arrival.workload]
            if arrival.due_s < math.inf:
                busiest = max(busiest, work_s / (arrival.due_s - begin))
    return math.ceil(busiest)


def threshold(queue_s: float = 600.0, idle_s: float = 300.0, max_pods: int = 20) -> Rule:
    """A pod for every `queue_s` of work that waits (KEDA's way with a queue); one that was idle for `idle_s`, its
    default cool-down, goes."""

    def decide(observed: Observed, now: float) -> list[Action]:
        actions: list[Action] = [
            Destroy(pod.pod_id, pods.Reason.IDLE, "drained")
            for pod in observed.pods
            if pod.state is pods.State.DRAINING and not pod.busy
        ]
        active = [pod for pod in observed.pods if pod.active]
        work_s = sum(_work_s(observed, demand.workload, demand.items) for demand in observed.demands)
        wanted = min(max_pods, math.ceil(work_s / queue_s))
        if wanted > len(active):
            return [*actions, *_spawns(observed, now, wanted - len(active), f"{work_s:.0f} s of work wait")]
        return [*actions, *_idle(active, now, idle_s)]

    return decide


def _idle(active: Sequence[Pod], now: float, idle_s: float) -> list[Action]:
    return [
        Drain(pod.pod_id, pods.Reason.IDLE, f"idle for {idle_s:.0f} s")
        for pod in active
        if pod.state is pods.State.READY and pod.idle_s(now) >= idle_s
    ]


def _spawns(observed: Observed, now: float, count: int, reason: str) -> list[Action]:
    workload = observed.demands[0].workload
    offer = min(
        (o for o in observed.offers if (workload, o.device) in observed.items_per_s),
        key=lambda o: (o.price_usd_per_hour / observed.items_per_s[workload, o.device], o.key),
    )
    if observed.asked_again(offer.key) > now:
        return []
    return [Spawn(offer, workload, reason)] * max(0, count)


def _work_s(observed: Observed, workload: str, items: int) -> float:
    best: Mapping[str, offers.Offer] = {o.device: o for o in observed.offers}
    rates = [
        (o.price_usd_per_hour / r, r) for (w, d), r in observed.items_per_s.items() if w == workload for o in [best[d]]
    ]
    return items / min(rates)[1]


def _cheapest(market: Market, workload: str) -> str:
    stalls = [s for s in market.stalls if market.rate(workload, s.offer)]
    return min(stalls, key=lambda s: s.offer.price_usd_per_hour / market.rate(workload, s.offer)).offer.device
