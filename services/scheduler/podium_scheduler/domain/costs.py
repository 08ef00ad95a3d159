"""What pods cost, and whose cost it is. Money is whole micro-USD, so that the parts add up to the bill exactly.

A pod's bill is the sum over its spans of price times time. It is shared by time: a job pays for the GPU-seconds in
which the pod computed for it, loaded a model for it, or stood idle on its account; what no job answers for (booting,
the wait for work that did not come, what interactive calls took) is the unattributed remainder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

_MICRO = 1_000_000
_HOUR = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a pod had one price."""

    pod_id: UUID
    start: datetime
    end: datetime | None
    """None: it goes on."""
    price_usd_per_hour: Decimal
    gpu_count: int = 1

    def within(self, start: datetime, end: datetime) -> timedelta:
        """How much of it lies between two times."""
        last = end if self.end is None else min(self.end, end)
        return max(last - max(self.start, start), _ZERO)


@dataclass(frozen=True, slots=True)
class Use:
    """What a job had of a pod, in GPU-seconds; or, without one, what interactive calls had of it."""

    job_id: UUID | None
    workload: str
    busy_s: float
    load_s: float = 0.0
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JobCost:
    """What a job answers for."""

    gpu_seconds: float = 0.0
    """Busy, load and idle together."""
    busy_micro_usd: int = 0
    load_micro_usd: int = 0
    idle_micro_usd: int = 0

    @property
    def micro_usd(self) -> int:
        """All of it."""
        return self.busy_micro_usd + self.load_micro_usd + self.idle_micro_usd

    def __add__(self, other: JobCost) -> JobCost:
        return JobCost(
            self.gpu_seconds + other.gpu_seconds,
            self.busy_micro_usd + other.busy_micro_usd,
            self.load_micro_usd + other.load_micro_usd,
            self.idle_micro_usd + other.idle_micro_usd,
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """What pods cost between two times."""

    pod_seconds: float = 0.0
    gpu_seconds: float = 0.0
    micro_usd: int = 0

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.pod_seconds + other.pod_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.micro_usd + other.micro_usd,
        )


@dataclass(frozen=True, slots=True)
class Attribution:
    """A bill and whose it is: `bill` equals the jobs' costs and the unattributed, to the micro-USD."""

    bill: Bill
    jobs: Mapping[UUID, JobCost]
    unattributed_micro_usd: int


def bills(spans: Iterable[Span], start: datetime, end: datetime) -> dict[UUID, Bill]:
    """What each pod cost between two times. A span's part is rounded down to whole micro-USD."""
    found: defaultdict[UUID, Bill] = defaultdict(Bill)
    for span in spans:
        length = span.within(start, end)
        seconds = length.total_seconds()
        micro_usd = int(span.price_usd_per_hour * _MICRO) * (length // _MICROSECOND) // (_HOUR // _MICROSECOND)
        found[span.pod_id] += Bill(seconds, seconds * span.gpu_count, micro_usd)
    return dict(found)


def total(found: Iterable[Bill]) -> Bill:
    """All of them together."""
    return sum(found, Bill())


def attribute(pod_bills: Mapping[UUID, Bill], uses: Mapping[UUID, Sequence[Use]]) -> Attribution:
    """Shares the pods' bills among the jobs. Uses of a pod without a bill cost nothing; those of calls are nobody's."""
    jobs: defaultdict[UUID, JobCost] = defaultdict(JobCost)
    unattributed = 0
    for pod_id, bill in pod_bills.items():
        of_pod = uses.get(pod_id, ())
        *shares, rest = _cut(bill, [seconds for use in of_pod for seconds in (use.busy_s, use.load_s, use.idle_s)])
        unattributed += rest
        for n, use in enumerate(of_pod):
            cost = JobCost(use.busy_s + use.load_s + use.idle_s, *shares[3 * n : 3 * n + 3])
            if use.job_id is None:
                unattributed += cost.micro_usd
            else:
                jobs[use.job_id] += cost
    return Attribution(total(pod_bills.values()), dict(jobs), unattributed)


def _cut(bill: Bill, parts_s: Sequence[float]) -> list[int]:
    """Cuts a bill in proportion to GPU-seconds; the last piece is what remains.

    Each cut is rounded, not each piece, so nothing is lost. Measured seconds may exceed the billed ones a little, by
    two clocks; then they are all there is to go by.
    """
    parts = [max(round(part * _MICRO), 0) for part in parts_s]
    whole = max(round(bill.gpu_seconds * _MICRO), sum(parts))
    pieces, cut, used = [], 0, 0
    for part in parts:
        used += part
        until = bill.micro_usd * used // whole if whole else 0
        pieces.append(until - cut)
        cut = until
    return [*pieces, bill.micro_usd - cut]


def share_out(busy: Sequence[Use], load_s: Mapping[str, float], idle_s: float) -> list[Use]:
    """Gives the jobs and calls of one pod their share of its loads and of its idle time, by how busy they kept it.

    A workload's loads are its own jobs'; those of a workload that no job used stay out. `idle_s`: the GPU-seconds of
    waiting that they answer for, such as the grace before a teardown.
    """
    of_workload: defaultdict[str, float] = defaultdict(float)
    for use in busy:
        of_workload[use.workload] += use.busy_s
    everything = sum(of_workload.values())
    return [
        Use(
            use.job_id,
            use.workload,
            use.busy_s,
            _part(load_s.get(use.workload, 0.0), use.busy_s, of_workload[use.workload]),
            _part(idle_s, use.busy_s, everything),
        )
        for use in busy
    ]


def _part(amount: float, share: float, whole: float) -> float:
    return amount * share / whole if whole else 0.0
