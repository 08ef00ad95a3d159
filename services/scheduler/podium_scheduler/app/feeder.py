"""The feeder: keeps each work stream at its target depth. Runs on the leader only.

The backlog waits in the ledger, so Redis stays small however long the queue, and fairness has one home. Nothing is fed
whose result might find no room (see domain.room). A crash between
the commit and the push leaves QUEUED batches without an entry: the reconciler finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from podium_runtime import logs
from podium_scheduler.app import loops, ports, wakers
from podium_scheduler.domain import fairness, room

log = logs.get_logger(__name__)

_POLL_S = 1.0
_IDLE_POLL_S = 5.0
"""The lookout wakes it a few times a second while anything waits, and whoever makes something wait at once."""
_MAX_ROUND = 512
_PER_LEVEL = 4


class Feeder(loops.PatientLoop):
    """Moves batches from the ledger to the work streams."""

    name = "feeder"

    def __init__(
        self,
        batches: ports.BatchLedger,
        holdings: ports.HoldingsLedger,
        sessions: ports.SessionLedger,
        buffer: ports.WorkBuffer,
        wake: wakers.Wakers,
        aging: timedelta,
        sizes: Mapping[str, room.Sizes],
    ) -> None:
        super().__init__(wake.feeder)
        self._batches = batches
        self._holdings = holdings
        self._sessions = sessions
        self._buffer = buffer
        self._wakers = wake
        self._aging = aging
        self._sizes = sizes
        self._shares: dict[str, fairness.Shares] = {}

    async def round(self) -> float:
        """Feeds every workload that has a backlog and room."""
        waiting = await self._batches.waiting_workloads()
        if not waiting:
            return _IDLE_POLL_S
        depths = await self._buffer.depths(waiting)
        credits = await self._sessions.credits()
        wanted = {w: fairness.refill(credits.get(w, 0), depths[w]) for w in waiting}
        if not any(wanted.values()):
            return _POLL_S
        # In this order: what completes in between is counted twice rather than not at all.
        in_flight = await self._holdings.in_flight()
        left = room.Room(await self._buffer.memory(), room.total(in_flight, self._sizes))
        fed = 0
        for workload, count in wanted.items():
            if count:
                fed += await self._feed_within(left, workload, min(count, _MAX_ROUND))
        if fed:
            await self._wakers.work()
        return _POLL_S

    async def _feed_within(self, left: room.Room, workload: str, wanted: int) -> int:
        # A workload that the registry has lost: nobody can compute it, so it takes no room.
        size = self._sizes[workload].batch if workload in self._sizes else 1
        fit, reserve = left.batches(size)
        wanted = wanted if fit is None else min(wanted, fit)
        fed = await self._feed(workload, wanted, reserve=reserve) if wanted else 0
        left.take(fed * size)
        return fed

    async def _feed(self, workload: str, wanted: int, *, reserve: bool) -> int:
        candidates, weights = await self._batches.candidates(workload, _PER_LEVEL, small=reserve)
        if reserve:
            candidates = [
                replace(c, batches=min(c.batches, room.allowance(c.held_batches, gap=c.gap))) for c in candidates
            ]
        shares = self._shares.setdefault(workload, fairness.Shares())
        order = fairness.plan(candidates, weights, shares, wanted, self._aging)
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
