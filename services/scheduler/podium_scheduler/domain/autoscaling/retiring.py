"""When a pod is given back, and which.

A pod whose end comes is drained first, and destroyed when nothing is in hand or the grace is over. It drains

- when it has had nothing to do for as long as the policy says; where work of its kind comes in steadily, for as long as
  coming anew would cost (who keeps it longer pays more than who rents again);
- when the work that there is, with what comes in steadily, would leave it idle for longer than coming anew costs, and
  the others still do everything in time with something to spare. The dearest for the work goes first;
- at once, when the budgets of all jobs that it could serve are used up;
- when what there is for it waits for results to be read, and it is idle; what is busy stays, for it will be again;
- when the operator's limits ask for it. Budgets are hard: where the money for the drain is not there, it is destroyed.

Nothing idle is what loads a model or has a batch in hand, and nothing is idle before it has come. What is still on its
way is given back when nothing waits for it any more; a pod that an operator asked for comes up in any case.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import words
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Destroy, Drain, Trouble
from podium_scheduler.domain.autoscaling.capacity import Calendar, Capacity, Group, Speeds, Work, grouped
from podium_scheduler.domain.autoscaling.observed import Due, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.domain.autoscaling.purse import Purse

_STAY = 0.8
"""What stays has to do all in this part of the time, or a pod would be rented again for the next item."""

_ROUGHLY = 16
"""Of so many that go, one more or less is not worth another pour."""

_TRIFLE = 1e-6
"""Of an item: sums are compared with this much to spare."""

_PRICED_OUT = "what is left of the budgets of the jobs that it could serve is less than their items cost on it"

_NO_WORK = "there is no work any more that it could do"
_NO_ROOM = "all that it could do waits until results are read: there is no room for more"

_Candidate = tuple[Pod, pods.Reason, str]
"""A pod that could go, and why."""


class Retiring:
    """The pods that are to go."""

    def __init__(self, observed: Observed, policy: Policy, speeds: Speeds, now: float) -> None:
        self._observed = observed
        self._policy = policy
        self._speeds = speeds
        self._now = now
        self._going: set[UUID] = set()
        self._has_work = any(demand.items for demand in observed.demands)
        self.actions: list[Action] = []

    @property
    def staying(self) -> list[Pod]:
        """Pods that serve or are going to, and are not told to go."""
        return [pod for pod in self._observed.pods if pod.active and pod.pod_id not in self._going]

    @property
    def draining(self) -> list[Pod]:
        """Pods that drain, and are not told to be destroyed."""
        return [p for p in self._observed.pods if p.state is pods.State.DRAINING and p.pod_id not in self._going]

    def finish_drains(self, taken_back: Collection[UUID] = ()) -> None:
        """Destroys what has drained."""
        for pod in self.draining:
            if pod.pod_id in taken_back:
                continue
            cause = pod.cause if pod.cause is not pods.Reason.NONE else pods.Reason.IDLE
            drained_s = self._now - (pod.changed if pod.changed is not None else self._now)
            if not pod.busy:
                self._destroy(
                    pod, cause, f"it has nothing in hand any more, {words.span(drained_s)} after its drain began"
                )
            elif drained_s >= self._policy.drain_grace_s:
                batches = f"{pod.batches_in_hand} in hand" if pod.batches_in_hand else "while it loads a model"
                self._destroy(pod, cause, f"the grace of {words.span(self._policy.drain_grace_s)} is over, {batches}")

    def keep_budgets(self) -> None:
        """Lets go what the operator's money and limits do not allow, the dearest first; hard ends come last."""
        purse = Purse(self._observed.pods, self._observed.spent_today_usd, self._policy, self._now)
        self._keep_hour(purse)
        self._keep_day(purse)
        staying, most = self.staying, self._policy.limits.max_pods
        if len(staying) > most:
            for pod in sorted(staying, key=self._dispensable)[: len(staying) - most]:
                self._let_go(pod, pods.Reason.OVER_LIMIT, f"more than the limit of {words.many(most, 'pod')}")

    def _keep_hour(self, purse: Purse) -> None:
        staying = self.staying
        over = purse.over_hour(sum(pod.offer.price_usd_per_hour for pod in staying))
        if not over:
            return
        for pod in sorted(staying, key=self._dispensable):
            self._let_go(pod, pods.Reason.OVER_BUDGET, f"{words.usd(over)}/h over the budget of an hour")
            over -= pod.offer.price_usd_per_hour
            if over <= 0:
                return

    def _keep_day(self, purse: Purse) -> None:
        over = purse.over_day()
        if not over:
            return
        reason = f"the day's money no longer lasts for another round and the way out: {words.usd(over)} short"
        self.actions.append(Alert(Trouble.BUDGET, "", reason))
        for pod in sorted(self.staying, key=self._dispensable):
            # Letting go now saves the round that was set aside for it.
            self._let_go(pod, pods.Reason.OVER_BUDGET, reason)
            over -= pod.offer.usd_per_s * self._policy.round_s
            if over <= 0:
                return
        for pod in sorted(self._observed.pods, key=lambda p: (-p.offer.usd_per_s, str(p.pod_id))):
            if over <= 0:
                return
            if pod.state in _RUNNING:
                self._going.discard(pod.pod_id)
                self.actions = [a for a in self.actions if getattr(a, "pod_id", None) != pod.pod_id]
                self._destroy(pod, pods.Reason.OVER_BUDGET, reason)
                over -= purse.farewell_usd(pod) - pod.offer.usd_per_s * self._policy.termination_lag_s

    def leave(self, calendar: Calendar) -> None:
        """Lets go what is not needed."""
        staying = self.staying
        candidates = self._candidates(staying, calendar) if staying else []
        if not candidates:
            return
        few = self._most(candidates, staying, calendar.work(_STAY))
        for pod, cause, reason in candidates[:few]:
            self._let_go(pod, cause, reason)

    def _most(self, candidates: Sequence[_Candidate], staying: Sequence[Pod], work: Sequence[Work]) -> int:
        """How many of the candidates can go, the first ones, without making anything late that is not late already.

        Of many, a few less than could: the next round finds them.
        """
        most = self._late(staying, work) + _TRIFLE
        # Most often none can, or all.
        if not self._could_go(candidates[:1], staying, work, most):
            return 0
        few, many, middle = 1, len(candidates), len(candidates)
        while many - few > few // _ROUGHLY:
            if self._could_go(candidates[:middle], staying, work, most):
                few = middle
            else:
                many = middle - 1
            middle = (few + many + 1) // 2
        return few

    def _could_go(self, those: Sequence[_Candidate], staying: Sequence[Pod], work: Sequence[Work], most: float) -> bool:
        """Whether without them no more items than that are late."""
        gone = {pod.pod_id for pod, _, _ in those}
        return not self._capacity([pod for pod in staying if pod.pod_id not in gone]).exceeded(work, most)

    def _late(self, fleet: Sequence[Pod], work: Sequence[Work]) -> float:
        """Items that a fleet would not do in time."""
        capacity = self._capacity(fleet)
        return sum(map(capacity.pour, work))

    def _capacity(self, fleet: Sequence[Pod]) -> Capacity:
        return Capacity(grouped(fleet, self._speeds, self._now), self._speeds)

    def _candidates(self, staying: Sequence[Pod], calendar: Calendar) -> list[_Candidate]:
        """Pods that could go, the most dispensable first; never one that the minimums keep."""
        groups = grouped(staying, self._speeds, self._now)
        Capacity(groups, self._speeds).pour_all(calendar.work())
        found = list(self._unwanted(staying))
        for group, steady in zip(groups, self._steady(groups), strict=True):
            if not group.coming:
                found.extend(self._surplus(group, steady, calendar))
        found.sort(key=lambda candidate: self._dispensable(candidate[0]))
        return self._above_minimums(staying, found)

    def _unwanted(self, staying: Sequence[Pod]) -> Iterator[_Candidate]:
        """Pods on their way that nothing waits for any more; an operator who asked for one waits for it."""
        for pod in staying:
            if not pod.coming or pod.asked_for or self._affordable_on(pod.offer):
                continue
            if self._priced_out(pod.offer):
                yield pod, pods.Reason.OVER_BUDGET, _PRICED_OUT
            else:
                yield pod, pods.Reason.NOT_WANTED, _NO_ROOM if self._held_on(pod.offer) else _NO_WORK

    def _surplus(self, group: Group, steady: float, calendar: Calendar) -> Iterator[_Candidate]:
        """Pods of a group that is there without which the others would still not be idle."""
        members = sorted(group.members, key=self._dispensable)
        if group.work_s <= 0 and self._priced_out(group.offer, group.unable):
            # Whoever asked for a pod has it for as long as one may be idle.
            gone = (pod for pod in members if self._is_settled(pod) or not pod.asked_for)
            yield from ((pod, pods.Reason.OVER_BUDGET, _PRICED_OUT) for pod in gone)
            return
        cold_s = max(1.0, self._speeds.cold_start_s(group.offer))
        hold_s = max(self._policy.idle_s, cold_s if self._awaited(group, calendar, cold_s) else 0.0)
        # What computes as fast as results are read would come and go with every reader that takes a rest.
        awaits_readers = self._held_on(group.offer, group.unable)
        useful = max(1, math.floor(steady + group.work_s / cold_s)) if group.work_s > 0 else 0
        for pod in members[: max(0, len(members) - useful)]:
            idle_s = pod.idle_s(self._now)
            if idle_s >= hold_s:
                yield pod, pods.Reason.IDLE, f"it has had nothing to do for {words.span(idle_s)}"
            elif pod.busy and self._is_settled(pod) and not pod.loading and self._has_work and not awaits_readers:
                yield pod, *self._dispensable_because(group, len(members), cold_s)

    def _is_settled(self, pod: Pod) -> bool:
        """Whether it has been READY for long enough to be found idle."""
        return pod.ready is not None and self._now - pod.ready >= self._policy.idle_s

    def _dispensable_because(self, group: Group, members: int, cold_s: float) -> tuple[pods.Reason, str]:
        if group.work_s <= 0:
            return pods.Reason.CHEAPER_ELSEWHERE, "cheaper pods do all that there is in time"
        why = f"{words.span(group.work_s)} of work are left for {words.many(members, 'pod')} like it"
        return pods.Reason.IDLE, f"{why}, and coming anew takes {words.span(cold_s)}"

    def _awaited(self, group: Group, calendar: Calendar, cold_s: float) -> bool:
        """Whether work is likely to come soon that would have such a pod rented again within its cold start."""
        return any(
            demand.arrivals_per_s > 0
            and not demand.items_held
            and self._speeds.items_per_s(demand.workload, group.offer) > 0
            and demand.workload not in group.unable
            and calendar.patience_s(demand) < cold_s
            for demand in self._observed.demands
        )

    def _held_on(self, offer: offers.Offer, unable: Collection[str] = ()) -> bool:
        """Whether there is work that it could do, were results read."""
        held = (demand.workload for demand in self._observed.demands if demand.items_held)
        return any(self._speeds.items_per_s(name, offer) > 0 and name not in unable for name in held)

    def _affordable_on(self, offer: offers.Offer, unable: Collection[str] = ()) -> bool:
        """Whether there is work that it could do, and that may cost so much."""
        return any(self._speeds.affords(workload, offer, due) for workload, due in self._work_for(offer, unable))

    def _priced_out(self, offer: offers.Offer, unable: Collection[str] = ()) -> bool:
        """Whether there is work that it could do, and its jobs have not the money for any of it."""
        return any(self._work_for(offer, unable)) and not self._affordable_on(offer, unable)

    def _work_for(self, offer: offers.Offer, unable: Collection[str]) -> Iterator[tuple[str, Due]]:
        for demand in self._observed.demands:
            if self._speeds.items_per_s(demand.workload, offer) > 0 and demand.workload not in unable:
                yield from ((demand.workload, due) for due in demand.due if due.items)

    def _steady(self, groups: Sequence[Group]) -> list[float]:
        """How many pods of each group are kept busy by what comes in, the cheapest first."""
        steady = [0.0] * len(groups)
        for demand in self._observed.demands:
            name = demand.workload
            rated = [(self._speeds.items_per_s(name, g.offer), n) for n, g in enumerate(groups) if name not in g.unable]
            left = demand.arrivals_per_s if not demand.items_held else 0.0
            for rate, number in sorted((x for x in rated if x[0]), key=lambda x: groups[x[1]].offer.usd_per_s / x[0]):
                taken = min(left, rate * max(0.0, groups[number].pods - steady[number]))
                steady[number] += taken / rate
                left -= taken
        return steady

    def _above_minimums(self, staying: Sequence[Pod], found: Sequence[_Candidate]) -> list[_Candidate]:
        room = len(staying) - self._policy.limits.min_pods
        warm = {d.workload: self._policy.wishes_for(d.workload).warm_pods for d in self._observed.demands}
        spare: Counter[str] = Counter()
        for workload, least in warm.items():
            if least:
                spare[workload] = sum(pod.is_warm(workload) for pod in staying) - least
        kept: list[_Candidate] = []
        for candidate in found:
            bound = [w for w, least in warm.items() if least and candidate[0].is_warm(w)]
            if len(kept) < room and all(spare[w] > 0 for w in bound):
                spare.subtract(bound)
                kept.append(candidate)
        return kept

    def _dispensable(self, pod: Pod) -> tuple[bool, bool, float, float, str]:
        """Ascending: what does nothing yet, what is idle, what is dear, what has been idle for long."""
        return (not pod.coming, pod.busy, -pod.offer.usd_per_s, -pod.idle_s(self._now), str(pod.pod_id))

    def _let_go(self, pod: Pod, cause: pods.Reason, reason: str) -> None:
        if pod.state is pods.State.READY:
            self._going.add(pod.pod_id)
            self.actions.append(Drain(pod.pod_id, cause, reason))
        else:
            self._destroy(pod, cause, reason)

    def _destroy(self, pod: Pod, cause: pods.Reason, reason: str) -> None:
        if pod.pod_id not in self._going:
            self._going.add(pod.pod_id)
            self.actions.append(Destroy(pod.pod_id, cause, reason))


_RUNNING = frozenset({pods.State.READY, pods.State.DRAINING})
