"""Who does which work by when: work is poured into groups of like pods, what is due first, where it is cheapest.

A group is a fluid: its pods share what they are given, and its `level` is the time when all of it is done. What does
not fit before it is due is left over. The result is a schedule that could be kept, so nothing left over means that
every window can be met; the reverse holds only nearly, for a workload's cheapest pods may be somebody else's only ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from podium_scheduler.domain import offers
from podium_scheduler.domain.autoscaling.observed import Demand, Due, Observed, Pod
from podium_scheduler.domain.autoscaling.policy import Policy

_LATE_COLD_STARTS = 2.0
"""A pod that is on its way for longer than so many cold starts is not counted on any more."""
_TRIFLE = 1e-6
"""Of an item: what is left of it by rounding."""
_REMAINING_SHARE = 0.25
"""One that should have come is given this part of its cold start more, again and again until then."""


class Speeds:
    """How fast each workload runs on each offer, how long a pod takes to come; what is not measured is assumed."""

    def __init__(self, observed: Observed, policy: Policy) -> None:
        self._observed = observed
        self._policy = policy
        self._needs = {demand.workload: demand.needs for demand in observed.demands}
        self._known: dict[str, dict[str, float]] = {}
        self._terms: dict[str, dict[tuple[str, float], tuple[float, float, float]]] = {}
        self._rentable: dict[str, list[offers.Offer]] = {}
        self._slowest: dict[str, float] = {}
        for (workload, _), rate in sorted(observed.items_per_s.items()):
            self._slowest[workload] = min(rate, self._slowest.get(workload, rate))

    def items_per_s(self, workload: str, offer: offers.Offer) -> float:
        """Of a whole pod; 0 when it may not serve the workload."""
        known = self._known.get(workload)
        if known is None:
            known = self._known[workload] = {}
        rate = known.get(offer.key)
        if rate is None:
            rate = known[offer.key] = self._rate(workload, offer)
        return rate

    def terms(self, workload: str, offer: offers.Offer) -> tuple[float, float, float]:
        """Items per second of a pod, 0 when it may not serve the workload; USD per item; and seconds of a load."""
        known = self._terms.setdefault(workload, {})
        found = known.get((offer.key, offer.price_usd_per_hour))
        if found is None:
            rate = self.items_per_s(workload, offer)
            usd_per_item = offer.usd_per_s / rate if rate > 0 else 0.0
            found = rate, usd_per_item, self.load_s(workload, offer)
            known[offer.key, offer.price_usd_per_hour] = found
        return found

    def _rate(self, workload: str, offer: offers.Offer) -> float:
        needs = self._needs.get(workload)
        if needs is None or not offers.meets(offer, needs):
            return 0.0
        clouds = self._policy.wishes_for(workload).clouds
        if offer.cloud is not offers.Cloud.NONE and offer.cloud not in clouds:
            return 0.0
        assumed = self._slowest.get(workload, self._policy.assumed_items_per_s)
        return max(1, offer.gpu_count) * self._observed.items_per_s.get((workload, offer.device), assumed)

    def rentable(self, workload: str) -> Sequence[offers.Offer]:
        """The offers that may be rented for it, as far as is known."""
        known = self._rentable.get(workload)
        if known is None:
            known = self._rentable[workload] = [
                offer for offer in self.fitting(workload) if offer.stock is not offers.Stock.NONE
            ]
        return known

    def fitting(self, workload: str) -> Iterator[offers.Offer]:
        """The offers that may serve it, those that there is none of now included."""
        wanted = self._policy.wishes_for(workload).gpu_types
        for offer in self._observed.offers:
            if (not wanted or offer.gpu_type in wanted) and self.items_per_s(workload, offer) > 0:
                yield offer

    def usd_per_item(self, workload: str, offer: offers.Offer) -> float:
        """While it computes; the offer has to serve the workload."""
        return offer.usd_per_s / self.items_per_s(workload, offer)

    def affords(self, workload: str, offer: offers.Offer, due: Due) -> bool:
        """Whether what is left for an item of its job's budget is enough while it computes on this offer."""
        return due.usd_per_item is None or self.usd_per_item(workload, offer) <= due.usd_per_item

    def load_s(self, workload: str, offer: offers.Offer) -> float:
        """Of the workload's model."""
        return self._observed.load_s.get((workload, offer.device), self._policy.assumed_load_s)

    def cold_start_s(self, offer: offers.Offer) -> float:
        """From intent to READY."""
        return self._observed.cold_start_s.get(offer.key, self._policy.assumed_cold_start_s)

    def coming_s(self, workload: str, offer: offers.Offer) -> float:
        """From intent to the workload's first item."""
        return self.cold_start_s(offer) + self.load_s(workload, offer)


class Work(NamedTuple):
    """Items that are to be done until then."""

    workload: str
    items: float
    until: float
    limit: float
    """The last moment that is planned for, and only for an offer without capacity, or what is pressing."""
    usd_per_item: float | None = None
    pressing: bool = False
    """The time for which they were planned is over, or nearly: what was spared is used up."""


class Calendar:
    """Until when work is to be done: a part of its window before it is due; what is late: as soon as can be."""

    def __init__(self, demands: Iterable[Demand], coming_s: Mapping[str, float], policy: Policy, now: float) -> None:
        self._demands = list(demands)
        self._coming_s = coming_s
        self._policy = policy
        self._now = now

    def work(self, share: float = 1.0) -> list[Work]:
        """All work, the soonest due first; `share`: only this part of the time that is left may be used."""
        found = [
            self._work(demand.workload, due, share) for demand in self._demands for due in demand.due if due.items > 0
        ]
        return sorted(found, key=lambda work: (work.limit, work.workload))

    def patience_s(self, demand: Demand) -> float:
        """How long a few new items could wait before a pod has to be rented for them."""
        wishes, coming_s = self._policy.wishes_for(demand.workload), self._coming_s[demand.workload]
        if demand.window_s is None:
            return wishes.age_gate_s
        return demand.window_s - self._spare_s(demand.workload, demand.window_s)[0] - 2 * coming_s

    def _spare_s(self, workload: str, window_s: float) -> tuple[float, float]:
        """How long before it is due work is planned to be done, and how long at the least."""
        policy, most = self._policy, self._policy.spare_most * window_s
        least = min(policy.spare_cold_starts * self._coming_s[workload], most)
        return max(least, policy.spare_share * window_s), least

    def _work(self, workload: str, due: Due, share: float) -> Work:
        coming_s = self._coming_s[workload]
        end = due.by if due.by is not None else due.since + self._policy.wishes_for(workload).target_s
        planned, least = self._spare_s(workload, end - due.since)
        until, limit = self._now + (end - planned - self._now) * share, end - least
        # Sooner than a pod comes, and in less time than that took, nothing can sensibly be asked of a new pod.
        soonest = self._now + 2 * coming_s
        pressing = until <= soonest
        return Work(workload, due.items, max(limit, soonest) if pressing else until, limit, due.usd_per_item, pressing)


@dataclass(slots=True)
class Group:
    """Pods of one offer that can begin at about the same time."""

    offer: offers.Offer
    pods: float
    start: float
    level: float
    resident: set[str]
    members: tuple[Pod, ...] = ()
    """The pods, where there are any yet."""
    coming_s: float = 0.0
    """Of pods on their way: how long they take."""
    unable: frozenset[str] = frozenset()
    """Workloads that its pods cannot serve, whatever the offer says."""

    @property
    def coming(self) -> bool:
        """Its pods are on their way."""
        return any(pod.coming for pod in self.members[:1])

    @property
    def work_s(self) -> float:
        """Pod-seconds that were poured in."""
        return self.pods * (self.level - self.start)


_Place = tuple[int, float, float, float]
"""A group's number, the items that its pods do together in a second, USD per item, and the seconds that a load takes
from all of them."""


class Capacity:
    """Groups that work can be poured into."""

    def __init__(self, groups: Iterable[Group], speeds: Speeds) -> None:
        self.groups = list(groups)
        self._speeds = speeds
        self._orders: dict[str, list[_Place]] = {}

    def copy(self) -> Capacity:
        """The same, to be poured into by itself."""
        copied = Capacity((replace(group, resident=set(group.resident)) for group in self.groups), self._speeds)
        # The order depends on what does not change, but for what is resident, and that only among equals.
        copied._orders = self._orders
        return copied

    def pour_all(self, work: Iterable[Work]) -> dict[str, list[Work]]:
        """Pours in all of it; what is left over, by workload, the soonest due first."""
        left: dict[str, list[Work]] = {}
        for part in work:
            items = self.pour(part)
            if items > 0:
                left.setdefault(part.workload, []).append(part._replace(items=items))
        return left

    def exceeded(self, work: Iterable[Work], most: float) -> bool:
        """Pours in work until more than `most` items are left over; whether that came to be."""
        for part in work:
            most -= self.pour(part)
            if most < 0:
                return True
        return False

    def pour(self, work: Work) -> float:
        """Pours in what can be done in time; the items that are left."""
        workload, items, by, _, most_usd, pressing = work
        groups = self.groups
        # This is most of what a decision costs: each part of the work is offered to each group that has room.
        for number, speed, usd_per_item, load_s in self._orders.get(workload) or self._order(workload):
            if most_usd is not None and usd_per_item > most_usd:
                continue
            group, until = groups[number], by
            if pressing or group.start >= until:
                # What was rented late counts for late work, or it would be rented again and again.
                until = max(until, group.start + group.coming_s)
            room_s = until - group.level
            if room_s <= 0:
                continue
            if workload not in group.resident:
                # One of them loads it.
                if load_s >= room_s:
                    continue
                group.resident.add(workload)
                group.level += load_s
                room_s -= load_s
            room = speed * room_s
            if items <= room:
                group.level += items / speed
                return 0.0
            group.level += room / speed
            items -= room
            if items <= _TRIFLE:
                return 0.0
        return items

    def _order(self, workload: str) -> Sequence[_Place]:
        """The groups that may serve it, the cheapest first."""
        places = []
        for number, group in enumerate(self.groups):
            rate, usd_per_item, load_s = self._speeds.terms(workload, group.offer)
            if rate > 0 and group.pods > 0 and workload not in group.unable:
                order = (usd_per_item, workload not in group.resident, group.start)
                places.append((order, (number, group.pods * rate, usd_per_item, load_s / group.pods)))
        places.sort()
        found = self._orders[workload] = [place for _, place in places]
        return found


def grouped(pods: Iterable[Pod], speeds: Speeds, now: float) -> list[Group]:
    """The pods that serve or are going to, in groups of the same offer that are there, or that are on their way.

    Those that turned out not to be able to serve something are a group of their own.
    """
    members: dict[tuple[str, bool, tuple[str, ...]], list[tuple[Pod, float]]] = {}
    for pod in pods:
        coming = pod.coming
        if coming or pod.active:
            start = _start(pod, speeds, now) if coming else now
            if start is not None:
                # Most can serve all: nothing to sort.
                told = tuple(sorted(pod.unable)) if pod.unable else ()
                members.setdefault((pod.offer.key, coming, told), []).append((pod, start))
    groups: list[Group] = []
    for key in sorted(members):
        found, unable = members[key], frozenset(key[2])
        mean = sum(start for _, start in found) / len(found)
        # What one of them has loaded counts for all: a load more or less is within what is spared.
        resident = set[str]().union(*{pod.resident or frozenset({pod.workload}) for pod, _ in found}) - unable
        those = tuple(pod for pod, _ in found)
        coming_s = speeds.coming_s(those[0].workload, those[0].offer) if those[0].coming else 0.0
        groups.append(Group(those[0].offer, len(found), mean, mean, resident, those, coming_s, unable))
    return groups


def _start(pod: Pod, speeds: Speeds, now: float) -> float | None:
    """When one that is on its way can begin; None: it is not to be counted on."""
    coming_s = speeds.coming_s(pod.workload, pod.offer)
    if now - pod.born > _LATE_COLD_STARTS * coming_s:
        return None
    due = pod.born + coming_s
    return due if due >= now else now + _REMAINING_SHARE * coming_s
