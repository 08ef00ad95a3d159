"""When a pod is rented, which, and how many.

Two gates. At the end of a window the *urgent* gate opens: so many pods that all is done in time, not before one round
later would need one more. In its first half the *full* gate opens: pods that the work fills for long enough to make
their cold start a trifle. Between the two, work waits for more of its kind, or for an offer that has no capacity now.

The cheapest offer for the work that can do it in time is taken, or the most wanted one where there is such a list; one
without capacity is waited for as long as it could still do it. A draining pod is taken back before any is rented.

What had to be rented dear, for want of capacity elsewhere, is replaced when there is capacity again and what is left to
do saves twice what the coming and going of another costs. The dear one goes when the cheap one is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import words
from podium_scheduler.domain.autoscaling.actions import Action, Alert, Spawn, Trouble, Undrain, Wait
from podium_scheduler.domain.autoscaling.capacity import Calendar, Capacity, Group, Speeds, Work, grouped
from podium_scheduler.domain.autoscaling.observed import Demand, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Policy
from podium_scheduler.domain.autoscaling.purse import Purse

_WORTH = 2.0
"""A pod is replaced when that saves so many times what it costs: the other may not come, or fail."""
_NOT_HAD = {
    pods.Reason.NO_CAPACITY: "has no capacity",
    pods.Reason.UNAUTHORIZED: "cannot be had: its provider does not accept the credentials",
    pods.Reason.OUT_OF_FUNDS: "cannot be had: the account at its provider has no money left",
    pods.Reason.REFUSED: "cannot be had: its provider refused the order",
    pods.Reason.THROTTLED: "could not be had: its provider had too many calls",
    pods.Reason.UNREACHABLE: "could not be had: its provider cannot be reached",
    pods.Reason.CREATE_UNRESOLVED: "could not be had: its provider did not answer, and lists no such pod",
    pods.Reason.BOOT_TIMEOUT: "rests: no worker registered from its last pod in time",
    pods.Reason.CANARY_TIMEOUT: "rests: no model passed its canary on its last pod in time",
    pods.Reason.MODEL_UNAVAILABLE: "rests: its last pod could not load the model that it was rented for",
    pods.Reason.PROVIDER_ERROR: "rests: its last pod broke at the provider before it was ready",
    pods.Reason.WORKER_GONE: "rests: the worker of its last pod was gone before it was ready",
    pods.Reason.UNSUITABLE: "rests: its last pod came up as something else than was ordered",
    pods.Reason.VANISHED: "rests: its last pod vanished from the provider's list before it was ready",
}
"""Why an offer is in backoff, by what became of its newest pod."""
_TAKEN_BACK = frozenset({pods.Reason.IDLE, pods.Reason.CHEAPER_ELSEWHERE, pods.Reason.NOT_WANTED})
"""A pod that drains for these may serve again; not one that an operator or a limit sends away."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What it would take to do some work on pods of one offer."""

    offer: offers.Offer
    rank: int
    """Its place in the list of wanted GPU types; behind all of them where the workload could not be loaded lately."""
    ready: float
    """When the first item could be computed."""
    pods: int
    in_time: bool
    usd: float
    waits: bool
    """It has no capacity now."""

    @property
    def order(self) -> tuple[bool, bool, int, float, str]:
        """The best first. What is late anyway waits for nothing."""
        return (not self.in_time, self.waits and not self.in_time, self.rank, self.usd, self.offer.key)


class Renting:
    """The pods that are to come, decided on workload by workload."""

    def __init__(
        self, observed: Observed, policy: Policy, speeds: Speeds, purse: Purse, draining: Iterable[Pod], now: float
    ) -> None:
        self._observed = observed
        self._policy = policy
        self._speeds = speeds
        self._purse = purse
        self._now = now
        self._failed_on = {demand.workload: demand.failed_on for demand in observed.demands if demand.failed_on}
        self._rented = Capacity([], speeds)
        self._draining = [pod for pod in draining if pod.cause in _TAKEN_BACK] if policy.undrains else []
        self.actions: list[Action] = []

    def decide(self, calendar: Calendar) -> None:
        """What the work asks for."""
        pressing, comfortable = calendar.work(), calendar.work(self._policy.comfort)
        present = Capacity(grouped(self._observed.pods, self._speeds, self._now), self._speeds)
        poured = present.copy()
        urgent = poured.pour_all(pressing)
        full = present.copy().pour_all(comfortable)
        demands = {demand.workload: demand for demand in self._observed.demands}
        # Who is due first rents first, and the others join in what it leaves free.
        for workload in sorted(full | urgent, key=lambda w: ((urgent.get(w) or full[w])[0].limit, w)):
            self._serve(demands[workload], urgent.get(workload, []), full.get(workload, []))
        self._replace(poured.groups)

    def keep_up(self, staying: Sequence[Pod]) -> None:
        """Rents up to the warm minimum of each workload, and up to the least number of pods."""
        hopeful = [demand for demand in self._observed.demands if not demand.hopeless]
        for demand in hopeful:
            name = demand.workload
            if least := self._policy.wishes_for(name).warm_pods:
                here = sum(pod.is_warm(name) for pod in staying) + self._spawned(name)
                self._add(name, least - here, f"warm minimum of {name}")
        for demand in sorted(hopeful, key=self._unlikely):
            lacking = self._policy.limits.min_pods - len(staying) - self._spawned()
            self._add(demand.workload, lacking, f"operator's minimum, for {demand.workload}")

    def _unlikely(self, demand: Demand) -> tuple[bool, float, bool, int, str]:
        """Ascending: what has work, what came lately, what is known to load somewhere, what is small."""
        loads = any(workload == demand.workload for workload, _ in self._observed.load_s)
        return (not demand.items, -demand.arrivals_per_s, not loads, demand.needs.vram_bytes, demand.workload)

    def _spawned(self, workload: str = "") -> int:
        spawns = (action for action in self.actions if isinstance(action, Spawn))
        return sum(spawn.workload == workload or not workload for spawn in spawns)

    def _serve(self, demand: Demand, urgent: list[Work], full: list[Work]) -> None:
        urgent, full = self._join(urgent, keep=True), self._join(full, keep=False)
        if not (urgent or full):
            return
        if demand.hopeless:
            self.actions.append(Wait(demand.workload, demand.hopeless))
            self.actions.append(Alert(Trouble.UNSERVABLE, demand.workload, demand.hopeless))
            return
        best = self._best(demand, urgent) if urgent else None
        hurry = self._hurry(demand, urgent, best) if best else ""
        if hurry:
            self._rent(demand, urgent, hurry)
        elif full and (best := self._best(demand, full)):
            self._fill(demand, full, best)
        elif not best and any(self._speeds.rentable(demand.workload)):
            self.actions.append(Wait(demand.workload, self._priced_out(demand.workload, urgent or full)))
        elif not best:
            self._unservable(demand)

    def _replace(self, groups: Sequence[Group]) -> None:
        """Rents a cheaper pod for what a dear one has still to do, one at a time."""
        work = {demand.workload for demand in self._observed.demands if demand.items}
        coming = {w for group in groups if group.coming for w in group.resident}
        for group in groups:
            does = sorted(w for w in work & group.resident if self._speeds.items_per_s(w, group.offer) > 0)
            if not does or not group.offer.usd_per_s or group.coming or coming & group.resident or self._spawned():
                continue
            offer = min(self._others(does, group), key=lambda o: (self._share(does, o, group), o.key), default=None)
            if offer is None:
                continue
            coming_s = max(self._speeds.coming_s(workload, offer) for workload in does)
            left_s = group.level - group.start - coming_s
            saved = left_s * group.offer.usd_per_s * (1 - self._share(does, offer, group))
            end_s = min(self._policy.assumed_end_s, self._policy.termination_lag_s)
            cost = offer.usd_per_s * (coming_s + self._policy.idle_s + end_s)
            if left_s > 0 and saved > _WORTH * cost and self._purse.affords(offer, coming_s)[0]:
                why = f"{offer.key} at {words.usd(offer.price_usd_per_hour)}/h has capacity again, and takes over"
                self._purse.rent(offer, coming_s)
                left = f"{words.span(left_s)} of work of {group.offer.key}"
                self.actions.append(Spawn(offer, does[0], f"{why} {left} at {words.usd(saved)} less"))

    def _others(self, does: Sequence[str], group: Group) -> Iterator[offers.Offer]:
        """Cheaper offers that could do what a group does, and are not less wanted, as far as is known."""
        wanted = self._policy.wishes_for(does[0]).gpu_types
        mine = self._speeds.usd_per_item(does[0], group.offer)
        least = wanted.index(group.offer.gpu_type) if group.offer.gpu_type in wanted else len(wanted)
        for offer in self._speeds.rentable(does[0]):
            if self._speeds.usd_per_item(does[0], offer) >= mine:
                continue
            there = self._observed.asked_again(offer.key) <= self._now
            able = there and all(self._speeds.items_per_s(workload, offer) > 0 for workload in does)
            if able and offer.key != group.offer.key and self._rank(does[0], offer) <= least:
                yield offer

    def _share(self, does: Sequence[str], offer: offers.Offer, group: Group) -> float:
        """What an item costs on an offer, of what it costs in a group: of the workload for which that is most."""
        mine, theirs = group.offer, self._speeds.usd_per_item
        return max(theirs(w, offer) / theirs(w, mine) for w in does)

    def _join(self, parts: list[Work], *, keep: bool) -> list[Work]:
        """What is left for a workload after it has used what others have rented in this round."""
        if not self._rented.groups:
            return parts
        rented = self._rented if keep else self._rented.copy()
        return [part for work in parts for part in rented.pour_all([work]).get(work.workload, ())]

    def _hurry(self, demand: Demand, urgent: list[Work], best: Quote) -> str:
        """Why work can not wait; empty: it can."""
        rate = self._speeds.items_per_s(demand.workload, best.offer)
        items = sum(part.items for part in urgent)
        # Where pods are at it, what another could not have begun before they end is no reason.
        if items >= demand.items or items / rate > self._speeds.coming_s(demand.workload, best.offer):
            gate = self._gate(demand)
            if gate:
                return gate
        later = _pods_for(urgent, rate, best.ready + 2 * self._policy.round_s)
        if not urgent[0].pressing and best.in_time and later is not None and later <= best.pods:
            return ""
        left_s = urgent[0].until - self._now
        count = words.many(max(1, round(items)), "item")
        return f"{count} would not be done in time, the first of them in {words.span(left_s)}"

    def _gate(self, demand: Demand) -> str:
        """Which of the operator's gates is open, and why; empty: none."""
        wishes = self._policy.wishes_for(demand.workload)
        if wishes.depth_gate is not None and demand.items >= wishes.depth_gate:
            return f"{words.many(demand.items, 'item')} wait, and the depth gate is {wishes.depth_gate:,}"
        age_s = max((self._now - due.since for due in demand.due if due.by is None and due.items), default=0.0)
        if age_s >= wishes.age_gate_s:
            return f"the oldest has waited {words.span(age_s)}, and the age gate is {words.span(wishes.age_gate_s)}"
        return ""

    def _rent(self, demand: Demand, urgent: list[Work], why: str) -> None:
        """Rents what is pressing; where one offer has not enough, the next."""
        left = self._take_back(demand.workload, urgent, why)
        obstacle = ""
        while left:
            quotes = self._quotes(demand, left)
            best = next((quote for quote in quotes if self._affordable(demand.workload, quote)), None)
            if best is None:
                obstacle = self._obstacle(demand.workload, quotes)
                break
            if best.waits and best.in_time:
                self.actions.append(Wait(demand.workload, self._waits(best)))
                return
            if best.waits:
                obstacle = self._waits(best)
                break
            count = min(best.pods, self._affordable(demand.workload, best))
            left = self._spawn(
                demand.workload, best, count, f"{why}: {self._figures(demand.workload, best, left)}", left
            )
        if left:
            self.actions.append(Wait(demand.workload, f"{why}, but {obstacle}"))
            self.actions.append(Alert(Trouble.LATE, demand.workload, f"{why}, but {obstacle}"))

    def _fill(self, demand: Demand, full: list[Work], best: Quote) -> None:
        """Rents pods that nothing presses for but that the work fills."""
        if not full:
            return
        workload = demand.workload
        work_s = sum(part.items for part in full) / self._speeds.items_per_s(workload, best.offer)
        # What costs nothing saves nothing by waiting.
        fill_s = self._policy.fill * self._speeds.coming_s(workload, best.offer) if best.offer.usd_per_s else 0.0
        filled = min(best.pods, int(work_s / fill_s)) if fill_s else best.pods
        if not filled:
            wait = f"{words.span(work_s)} of work wait for a fuller pod: {words.span(fill_s)} fill one"
            self.actions.append(Wait(workload, f"{wait}, and nothing presses"))
        elif best.waits:
            self.actions.append(Wait(workload, self._waits(best)))
        else:
            why = f"{words.span(work_s)} of work fill {words.many(filled, 'pod')}"
            left = self._take_back(workload, full, why)
            if left is not full:
                return
            count = min(filled, self._affordable(workload, best))
            if not count:
                self.actions.append(Wait(workload, self._obstacle(workload, [best])))
            self._spawn(
                workload,
                best,
                count,
                f"{why} of {best.offer.key} at {words.usd(best.offer.price_usd_per_hour)}/h",
                full,
            )

    def _take_back(self, workload: str, parts: list[Work], why: str) -> list[Work]:
        """Pods that drain are given work again; what they cannot do."""
        able = [
            pod
            for pod in self._draining
            if self._speeds.items_per_s(workload, pod.offer) > 0 and workload not in pod.unable
        ]
        for pod in sorted(able, key=lambda p: (self._speeds.usd_per_item(workload, p.offer), str(p.pod_id))):
            if not parts:
                break
            if not self._purse.take_back(pod):
                continue
            self._draining.remove(pod)
            self.actions.append(Undrain(pod.pod_id, f"{why}; it is still there"))
            self._put(Group(pod.offer, 1, self._now, self._now, set(pod.resident)))
            parts = self._join(parts, keep=True)
        return parts

    def _spawn(self, workload: str, quote: Quote, count: int, reason: str, parts: list[Work]) -> list[Work]:
        coming_s = self._speeds.coming_s(workload, quote.offer)
        for _ in range(count):
            self._purse.rent(quote.offer, coming_s)
            self.actions.append(Spawn(quote.offer, workload, reason))
        if count:
            ready = self._now + coming_s
            self._put(Group(quote.offer, count, ready, ready, {workload}, coming_s=coming_s))
        return self._join(parts, keep=True)

    def _put(self, group: Group) -> None:
        self._rented = Capacity([*self._rented.groups, group], self._speeds)

    def _add(self, workload: str, lacking: int, reason: str) -> None:
        """Rents pods for no work, the cheapest."""
        if lacking <= 0:
            return
        able = self._speeds.rentable(workload)
        for offer in sorted(able, key=lambda o: (self._rank(workload, o), o.price_usd_per_hour, o.key)):
            if self._observed.asked_again(offer.key) > self._now:
                continue
            coming_s = self._speeds.coming_s(workload, offer)
            for _ in range(min(self._purse.affords(offer, coming_s)[0], lacking)):
                lacking -= 1
                self._purse.rent(offer, coming_s)
                self.actions.append(Spawn(offer, workload, reason))

    def _best(self, demand: Demand, parts: Sequence[Work]) -> Quote | None:
        """The first of the quotes. Offers that cannot be better, whatever they would take, are not asked for one."""
        if any(part.usd_per_item is not None for part in parts):
            return next(iter(self._quotes(demand, parts)), None)
        workload, items = demand.workload, sum(part.items for part in parts)
        # One pod that does it all is the least that an offer can cost.
        least = (
            (self._rank(workload, offer), self._usd(workload, offer, 1, items), offer)
            for offer in self._speeds.rentable(workload)
        )
        best: Quote | None = None
        for rank, least_usd, offer in sorted(least, key=lambda one: one[:2]):
            if best is not None and best.in_time and (best.rank, best.usd) < (rank, least_usd):
                break
            quote = self._quote(workload, offer, parts)
            best = quote if best is None else min(best, quote, key=lambda one: one.order)
        return best

    def _quotes(self, demand: Demand, parts: Sequence[Work]) -> list[Quote]:
        """What each offer would take for it, the best first."""
        return sorted(self._quoted(demand, parts), key=lambda quote: quote.order)

    def _quoted(self, demand: Demand, parts: Sequence[Work]) -> Iterator[Quote]:
        items = sum(part.items for part in parts)
        for offer in self._speeds.rentable(demand.workload):
            quote = self._quote(demand.workload, offer, parts)
            # Not for those whose job has too little money left for such an item and its share of the cold start.
            allowed = [p for p in parts if p.usd_per_item is None or quote.usd / items <= p.usd_per_item]
            if allowed:
                yield quote if len(allowed) == len(parts) else self._quote(demand.workload, offer, allowed)

    def _quote(self, workload: str, offer: offers.Offer, parts: Sequence[Work]) -> Quote:
        rate, coming_s = self._speeds.items_per_s(workload, offer), self._speeds.coming_s(workload, offer)
        begin = max(self._now, self._observed.asked_again(offer.key))
        waits = begin > self._now
        found = _pods_for(_at_limit(parts) if waits else parts, rate, begin + coming_s)
        count = found or _pods_for(parts, rate, begin + coming_s, soonest=begin + 2 * coming_s) or 1
        usd = self._usd(workload, offer, count, sum(part.items for part in parts))
        return Quote(offer, self._rank(workload, offer), begin + coming_s, count, found is not None, usd, waits)

    def _usd(self, workload: str, offer: offers.Offer, count: int, items: float) -> float:
        """What so many pods cost that come for some work and do it."""
        coming_s = self._speeds.coming_s(workload, offer)
        return offer.usd_per_s * (count * coming_s + items / self._speeds.items_per_s(workload, offer))

    def _rank(self, workload: str, offer: offers.Offer) -> int:
        wanted = self._policy.wishes_for(workload).gpu_types
        rank = wanted.index(offer.gpu_type) if wanted else 0
        # Where a pod could not load it lately, another is tried last.
        return rank + len(wanted) + 1 if offer.key in self._failed_on.get(workload, ()) else rank

    def _affordable(self, workload: str, quote: Quote) -> int:
        return self._purse.affords(quote.offer, self._speeds.coming_s(workload, quote.offer))[0]

    def _obstacle(self, workload: str, quotes: Sequence[Quote]) -> str:
        if not quotes:
            return "no offer is cheap enough for what is left of its jobs' budgets"
        best = quotes[0].offer
        bound = self._purse.affords(best, self._speeds.coming_s(workload, best))[1]
        return self._with_unknown(f"{bound} bounds it")

    def _priced_out(self, workload: str, parts: Sequence[Work]) -> str:
        """Why work waits that no job has the money for."""
        items = words.many(round(sum(part.items for part in parts)), "item")
        most = max((part.usd_per_item for part in parts if part.usd_per_item is not None), default=0.0)
        if most <= 0:
            return f"{items} wait, and the budgets of their jobs are used up"
        least = min(self._quote(workload, offer, parts).usd for offer in self._speeds.rentable(workload))
        each = least / sum(part.items for part in parts)
        return f"{items} wait: ${most:.3g} is left for each of their jobs' budgets, and each would cost ${each:.3g}"

    def _waits(self, quote: Quote) -> str:
        backoff = self._observed.backoffs[quote.offer.key]
        why = _NOT_HAD.get(backoff.cause, f"its last pod did not come up ({backoff.cause})")
        again = f"it is asked again in {words.span(backoff.until - self._now)}"
        return self._with_unknown(f"{quote.offer.key} {why}; {again}")

    def _with_unknown(self, why: str) -> str:
        """And which providers might do what these cannot, if they told what they offer."""
        unknown = sorted(self._observed.unknown_offers.items())
        return "; ".join([why, *(f"what {name} offers is not known: {because}" for name, because in unknown)])

    def _figures(self, workload: str, quote: Quote, parts: Sequence[Work]) -> str:
        work_s = sum(part.items for part in parts) / self._speeds.items_per_s(workload, quote.offer)
        price = f"{words.usd(quote.offer.price_usd_per_hour)}/h"
        return f"{words.span(work_s)} of work on {quote.offer.key} at {price}, {words.many(quote.pods, 'pod')} needed"

    def _unservable(self, demand: Demand) -> None:
        fit = [o for o in self._observed.offers if offers.meets(o, demand.needs)]
        none = f"none of {words.many(len(self._observed.offers), 'offer')} may serve it now, {len(fit)} of them fit"
        why = self._with_unknown(none)
        self.actions.append(Wait(demand.workload, why))
        self.actions.append(Alert(Trouble.UNSERVABLE, demand.workload, why))


def _pods_for(parts: Sequence[Work], rate: float, ready: float, soonest: float = 0.0) -> int | None:
    """How many pods that begin at `ready` do all parts in time, at least one; None: no number does. What is due before
    `soonest` is taken to be due then."""
    items, most = 0.0, 1
    for part in parts:
        items += part.items
        time_s = max(part.until, soonest) - ready
        if time_s <= 0:
            return None
        most = max(most, math.ceil(items / (rate * time_s) - 1e-9))
    return most


def _at_limit(parts: Sequence[Work]) -> list[Work]:
    return [part._replace(until=part.limit) for part in parts]
