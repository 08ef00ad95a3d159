"""Whose batches are fed next: priority with aging first, then weighted fair share between apps.

Start-time fair queueing over apps: each app carries a virtual time that grows by served items / weight, and the app
that is furthest behind goes next. An app that was idle starts at the present of the others, so that it can neither
save up turns nor starve anybody. Within an app, jobs go by effective priority, then by age.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job with batches that wait in the ledger."""

    job_id: str
    app_id: str
    priority: int
    """1 (soonest) to 5."""
    age: timedelta
    """Since its admission."""
    batches: int
    """Batches that wait."""
    batch_items: int
    """Items in a typical batch of it: what one turn costs its app."""
    held_batches: int = 0
    """In flight, or finished and not acknowledged: about what it takes of the buffer, now or soon."""
    gap: bool = False
    """Its next batch was fed before: later ones may be finished already and wait for it."""


@dataclass(slots=True)
class Shares:
    """What each app has had, as virtual time. Lives as long as the leader's term."""

    virtual: dict[str, float] = field(default_factory=dict)
    present: float = 0.0

    def start(self, app_id: str) -> float:
        """The app's place now: its own, or the present when it has been idle."""
        return max(self.virtual.get(app_id, self.present), self.present)


def effective_priority(priority: int, age: timedelta, aging: timedelta) -> int:
    """The priority after waiting `age`: one step sooner for each full `aging`, at best 1."""
    return max(1, priority - int(age / aging))


def plan(
    candidates: Sequence[Candidate],
    weights: Mapping[str, int],
    shares: Shares,
    room: int,
    aging: timedelta = timedelta(minutes=10),
) -> list[str]:
    """The job ids of the next `room` batches, in the order to feed them; charges `shares`."""
    left = {c.job_id: c.batches for c in candidates}
    by_level: dict[int, dict[str, list[Candidate]]] = {}
    for candidate in sorted(candidates, key=lambda c: -c.age):
        level = effective_priority(candidate.priority, candidate.age, aging)
        by_level.setdefault(level, {}).setdefault(candidate.app_id, []).append(candidate)
    order: list[str] = []
    for level in sorted(by_level):
        order.extend(_share_level(by_level[level], weights, shares, room - len(order), left))
    return order


def _share_level(
    by_app: Mapping[str, list[Candidate]],
    weights: Mapping[str, int],
    shares: Shares,
    room: int,
    left: dict[str, int],
) -> list[str]:
    waiting = {app: list(jobs) for app, jobs in by_app.items()}
    place = {app: shares.start(app) for app in waiting}
    order: list[str] = []
    behind = [(start, app) for app, start in place.items()]
    heapq.heapify(behind)
    while behind and len(order) < room:
        _, app = heapq.heappop(behind)
        job = waiting[app][0]
        order.append(job.job_id)
        shares.present = max(shares.present, place[app])
        place[app] += job.batch_items / weights.get(app, 1)
        shares.virtual[app] = place[app]
        left[job.job_id] -= 1
        if left[job.job_id] == 0:
            waiting[app].pop(0)
        if waiting[app]:
            heapq.heappush(behind, (place[app], app))
    return order


def target_depth(credits: int, floor: int = 8, multiple: int = 2) -> int:
    """References to keep in a work stream for workers that can hold `credits` batches."""
    return max(floor, credits * multiple)


def refill(credits: int, depth: int) -> int:
    """References to add to a work stream of this depth: up to the target, but none while three quarters are there.

    To choose whose turn it is costs the same for one batch as for many. Nobody gets in later for it: what comes next
    goes behind what is there in any case, and that is more than the workers can hold.
    """
    target = target_depth(credits)
    missing = target - depth
    return missing if missing * 4 >= target else 0
