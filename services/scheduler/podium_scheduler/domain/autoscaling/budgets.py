"""Jobs with a budget of their own, as the autoscaler sees them: what an item that is left may still cost.

Promises: Dues grow with the kinds of jobs, not with their number: jobs that came at about the same time, are due at
about the same time and have about the same left for an item are one. What is left for an item is rounded down, to two
digits, and to one where there are very many jobs, so that no job is lent what it has not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium_scheduler.domain.autoscaling.observed import Due

_MANY = 200
_Key = tuple[str, int, int, float]


@dataclass(frozen=True, slots=True)
class Job:
    """What a job with a budget has left. Times are seconds of the database's clock."""

    workload: str
    items: int
    """Without an outcome; at least one."""
    since: float
    by: float | None
    left_usd: float
    """Of its budget, after what pods cost for it so far; below zero when that was more."""
    held: int = 0
    """Those of its items that wait for results to be read."""

    def usd_per_item(self, digits: int = 2) -> float:
        """What an item may cost, rounded down to so many digits; 0 when nothing is left."""
        exact = self.left_usd / self.items
        if exact <= 0:
            return 0.0
        unit = 10.0 ** (math.floor(math.log10(exact)) + 1 - digits)
        return min(exact, math.floor(exact / unit) * unit)


def dues(jobs: Sequence[Job], now: float) -> Mapping[str, Sequence[Due]]:
    """Their work by workload, the oldest first."""
    alike: defaultdict[_Key, list[Job]] = defaultdict(list)
    digits = 2 if len(jobs) <= _MANY else 1
    for job in (job for job in jobs if job.items > job.held):
        # As the ledger sums up those without a budget: by powers of two of what is left, or of what has passed.
        left = -1 if job.by is None else _power(job.by - now)
        passed = _power(now - job.since) if job.by is None else -1
        alike[job.workload, left, passed, job.usd_per_item(digits)].append(job)
    found: defaultdict[str, list[Due]] = defaultdict(list)
    for (workload, _, _, usd_per_item), those in alike.items():
        by = min((job.by for job in those if job.by is not None), default=None)
        found[workload].append(
            Due(sum(job.items - job.held for job in those), min(job.since for job in those), by, usd_per_item)
        )  # fmt: skip
    return {workload: sorted(those, key=lambda due: due.since) for workload, those in found.items()}


def held(jobs: Sequence[Job]) -> Mapping[str, Due]:
    """What of their work waits for results to be read, by workload."""
    found: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.held:
            found[job.workload].append(job)
    return {
        workload: Due(sum(job.held for job in those), min(job.since for job in those))
        for workload, those in found.items()
    }


def _power(seconds: float) -> int:
    return math.floor(math.log2(max(seconds, 1.0)))
