"""What the autoscaler reads besides pods, in memory: the work by when it is due, arrivals, and what is measured."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from podium_scheduler.app import records
from podium_scheduler.domain import room
from podium_scheduler.simulation.agenda import EPOCH, Agenda
from podium_scheduler.simulation.floor import Job
from podium_scheduler.simulation.market import Market

_LATELY_S = 900.0
"""As in adapters.sql.scaling_ledger."""


class Scaling:
    """A scaling ledger; see adapters.sql.scaling_ledger, whose sums it makes in the same way."""

    def __init__(self, market: Market, agenda: Agenda, jobs: Sequence[Job]) -> None:
        self._agenda = agenda
        self._all = jobs
        self._seen = 0
        self._open: list[tuple[Job, datetime, datetime | None]] = []
        self._recent: deque[Job] = deque()
        self._limits: records.ScalingLimits | None = None
        self._speeds = [
            records.Throughput(workload, device, rate / (1 + market.slowdown / 2))
            for (workload, device), rate in sorted(market.items_per_s.items())
        ]

    async def limits(self) -> records.ScalingLimits | None:
        """What an operator has set."""
        return self._limits

    async def set_limits(self, limits: records.ScalingLimits) -> None:
        """From now on."""
        self._limits = limits

    async def decide(self, decisions: Sequence[records.Decision]) -> None:
        """The run keeps them itself."""

    async def decisions(self, workload: str, limit: int) -> list[records.Decision]:
        """Likewise."""
        return []

    async def budgeted(self, tight: Mapping[str, room.Tight]) -> list[records.BudgetedJob]:
        """No job of a trace has a budget of its own."""
        return []

    async def demands(self, tight: Mapping[str, room.Tight]) -> list[records.DemandRow]:
        """Items without an outcome, summed up by workload and by when they are due. All results are read at once."""
        self._take_in()
        now_s = self._agenda.now_s
        self._open = [entry for entry in self._open if entry[0].left]
        sums: dict[tuple[str, int, int], records.DemandRow] = {}
        for job, since, due in self._open:
            key = _bucket(job, now_s)
            row = sums.get(key)
            if row is None:
                sums[key] = records.DemandRow(job.arrival.workload, job.left, since, due)
            else:
                first = due if row.due is None or due is None else min(row.due, due)
                sums[key] = records.DemandRow(row.workload, row.items + job.left, min(row.since, since), first)
        return sorted(sums.values(), key=lambda row: (row.workload, row.due is None, row.due or row.since, row.since))

    async def arrivals(self) -> dict[str, records.Arrivals]:
        """What came lately."""
        self._take_in()
        while self._recent and self._recent[0].arrival.at_s <= self._agenda.now_s - _LATELY_S:
            self._recent.popleft()
        items: dict[str, int] = {}
        windows: dict[str, float] = {}
        for arrival in (job.arrival for job in self._recent):
            items[arrival.workload] = items.get(arrival.workload, 0) + arrival.items
            if arrival.window_s is not None:
                windows[arrival.workload] = min(windows.get(arrival.workload, math.inf), arrival.window_s)
        return {name: records.Arrivals(count / _LATELY_S, windows.get(name)) for name, count in items.items()}

    async def record_throughputs(self, seen: Sequence[records.Throughput]) -> None:
        """What is measured is known beforehand."""

    async def throughputs(self) -> list[records.Throughput]:
        """The mean rates of the market."""
        return self._speeds

    def _take_in(self) -> None:
        for job in self._all[self._seen :]:
            arrival = job.arrival
            since = EPOCH + timedelta(seconds=arrival.at_s)
            due = None if arrival.window_s is None else EPOCH + timedelta(seconds=arrival.due_s)
            self._open.append((job, since, due))
            self._recent.append(job)
        self._seen = len(self._all)


def _bucket(job: Job, now_s: float) -> tuple[str, int, int]:
    arrival = job.arrival
    if arrival.window_s is None:
        return arrival.workload, -1, math.floor(8 * math.log2(max(now_s - arrival.at_s, 1.0)))
    return arrival.workload, math.floor(8 * math.log2(max(arrival.due_s - now_s, 1.0))), 0


class Loads:
    """A load ledger's measurements: those of the market."""

    def __init__(self, market: Market) -> None:
        self._loads = [
            records.MeasuredLoad(workload, device, 1, seconds, seconds, 0, EPOCH)
            for (workload, device), seconds in sorted(market.load_s.items())
        ]

    async def loads(self, workload: str = "") -> list[records.MeasuredLoad]:
        """Of a workload, or of all."""
        return [load for load in self._loads if workload in ("", load.workload)]
