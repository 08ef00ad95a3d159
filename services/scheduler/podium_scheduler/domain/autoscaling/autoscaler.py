"""Which pods to rent, to keep and to give back: `decide`, a pure function. docs/AUTOSCALING.md explains the policy.

Promises, for every input:

- the operator's limits and budgets hold, counting pods on their way and those that are on their way out (`purse`);
- what is on its way counts, so that deciding again on what decisions brought about comes to rest: no spawn storms;
- what loads a model or has a batch in hand is destroyed only when its drain's grace is over, or for the day's money;
- without work, and without a minimum, everything goes.

It costs time in proportion to the pods, and to the Dues times the kinds of pods; the same input gives the same output.
"""

from __future__ import annotations

from podium_scheduler.domain.autoscaling import words
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Trouble, Undrain, Wait
from podium_scheduler.domain.autoscaling.capacity import Calendar, Speeds
from podium_scheduler.domain.autoscaling.observed import Demand, Observed
from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.domain.autoscaling.purse import Purse
from podium_scheduler.domain.autoscaling.renting import Renting
from podium_scheduler.domain.autoscaling.retiring import Retiring


def decide(observed: Observed, policy: Policy, now: float) -> list[Action]:
    """What to do now, in the order in which to do it. `now`: seconds of the clock of `observed`."""
    speeds = Speeds(observed, policy)
    retiring = Retiring(observed, policy, speeds, now)
    retiring.keep_budgets()
    if policy.limits.paused:
        retiring.finish_drains()
        return [*retiring.actions, *_paused(observed), *_old(observed, policy, now)]
    coming_s = {demand.workload: _coming_s(demand.workload, policy, speeds) for demand in observed.demands}
    calendar = Calendar(observed.demands, coming_s, policy, now)
    purse = Purse(observed.pods, observed.spent_today_usd, policy, now)
    renting = Renting(observed, policy, speeds, purse, retiring.draining, now)
    renting.decide(calendar)
    taken_back = {action.pod_id for action in renting.actions if isinstance(action, Undrain)}
    retiring.finish_drains(taken_back)
    retiring.leave(calendar)
    renting.keep_up([*retiring.staying, *(pod for pod in observed.pods if pod.pod_id in taken_back)])
    return [*retiring.actions, *renting.actions, *_held(observed), *_old(observed, policy, now)]


def _coming_s(workload: str, policy: Policy, speeds: Speeds) -> float:
    """How long a pod takes to come that serves a workload: the one that is cheapest for it."""
    able = speeds.rentable(workload)
    if not able:
        return policy.assumed_cold_start_s + policy.assumed_load_s
    cheapest = min(able, key=lambda offer: (speeds.usd_per_item(workload, offer), offer.key))
    return speeds.coming_s(workload, cheapest)


def _paused(observed: Observed) -> list[Action]:
    why = "an operator has paused the autoscaler"
    return [Wait(demand.workload, why) for demand in observed.demands if demand.items]


def _held(observed: Observed) -> list[Action]:
    """What nothing is rented for, whatever its window: pods would have nothing to do."""
    why = "until results are read: there is no room for theirs, so no pod is rented for them, and none stays idle"
    return [
        Wait(demand.workload, f"{words.many(demand.items_held, 'item')} wait {why}")
        for demand in observed.demands
        if demand.items_held
    ]


def _old(observed: Observed, policy: Policy, now: float) -> list[Action]:
    found: list[Action] = []
    for demand in observed.demands:
        age_s = _age_s(demand, now)
        if age_s >= policy.alert_age_s:
            items = words.many(demand.items + demand.items_held, "item")
            waits = f"the oldest of {items} has waited {words.span(age_s)}"
            reason = f"{waits}, and the alert age is {words.span(policy.alert_age_s)}"
            found.append(Alert(Trouble.OLD, demand.workload, reason))
    return found


def _age_s(demand: Demand, now: float) -> float:
    return max((now - due.since for due in (*demand.due, *demand.held) if due.items), default=0.0)
