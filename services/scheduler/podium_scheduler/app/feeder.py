"""The feeder: keeps each work stream at its target depth. Runs on the leader only.

The backlog waits in the ledger, so Redis stays small however long the queue, and fairness has one home. A crash between
the commit and the push leaves QUEUED batches without an entry: the reconciler finds them.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID

from podium_runtime import logs
from podium_scheduler.app import loops, ports, pressure, wakers
from podium_scheduler.domain import fairness

log = logs.get_logger(__name__)

_POLL_S = 0.25
_MAX_ROUND = 512
_PER_LEVEL = 4


class Feeder(loops.PatientLoop):
    """Moves batches from the ledger to the work streams."""

    name = "feeder"

    def __init__(
        self,
        batches: ports.BatchLedger,
        sessions: ports.SessionLedger,
        buffer: ports.WorkBuffer,
        gauge: pressure.PressureGauge,
        wake: wakers.Wakers,
        aging: timedelta,
    ) -> None:
        super().__init__(wake.feeder)
        self._batches = batches
        self._sessions = sessions
        self._buffer = buffer
        self._gauge = gauge
        self._wakers = wake
        self._aging = aging
        self._shares: dict[str, fairness.Shares] = {}

    async def round(self) -> float:
        """Feeds every workload that has a backlog and room."""
        if not self._gauge.may_feed:
            return _POLL_S
        waiting = await self._batches.waiting_workloads()
        if not waiting:
            return _POLL_S * 4
        depths = await self._buffer.depths(waiting)
        credits = await self._sessions.credits()
        fed = 0
        for workload in waiting:
            room = fairness.target_depth(credits.get(workload, 0)) - depths[workload]
            if room > 0:
                fed += await self._feed(workload, min(room, _MAX_ROUND))
        if fed:
            await self._wakers.work()
        return _POLL_S

    async def _feed(self, workload: str, room: int) -> int:
        candidates, weights = await self._batches.candidates(workload, _PER_LEVEL)
        shares = self._shares.setdefault(workload, fairness.Shares())
        order = fairness.plan(candidates, weights, shares, room, self._aging)
        if not order:
            return 0
        turns = {UUID(job_id): count for job_id, count in Counter(order).items()}
        queued = await self._batches.feed(turns)
        ids: list[int] = []
        for job_id in order:
            own = queued.get(UUID(job_id))
            if own:
                ids.append(own.pop(0))
        await self._buffer.push(workload, ids)
        log.debug("fed", workload=workload, batches=len(ids))
        return len(ids)
