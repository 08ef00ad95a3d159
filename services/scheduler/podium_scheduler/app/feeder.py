"""The feeder: keeps each work stream at its target depth. Runs on the leader only.

The backlog waits in the ledger, so Redis stays small however long the queue, and fairness has one home. Nothing is fed
whose result might find no room (see domain.room). Where a work stream is empty, idle workers of this very replica get
theirs without it (see app.handover), and what is admitted while the feeder rests and nothing is left behind may go to
them at once (see app.straight). A crash between the commit and the push leaves QUEUED batches without an entry:
the reconciler finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from podium_runtime import logs
from podium_scheduler.app import feeding, handover, loops, ports, straight, wakers
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
        ledger: ports.FeedLedger,
        batches: ports.BatchLedger,
        buffer: ports.WorkBuffer,
        wake: wakers.Wakers,
        hand_over: handover.Handover,
        direct: straight.Straight,
        aging: timedelta,
        sizes: Mapping[str, room.Sizes],
    ) -> None:
        super().__init__(wake.feeder)
        self._ledger = ledger
        self._batches = batches
        self._buffer = buffer
        self._handover = hand_over
        self._straight = direct
        self._wakers = wake
        self._aging = aging
        self._sizes = sizes
        self._shares: dict[str, fairness.Shares] = {}

    async def round(self) -> float:
        """Feeds every workload that has a backlog and room."""
        self._straight.close()
        outlook = await self._ledger.outlook()
        # In this order: what completes in between is counted twice rather than not at all.
        depths, memory = await self._buffer.depths_and_memory(outlook.waiting)
        wanted = {w: fairness.refill(outlook.credits.get(w, 0), depths[w]) for w in outlook.waiting}
        left = room.Room(memory, room.total(outlook.in_flight, self._sizes))
        queued, behind = 0, {*outlook.waiting, *outlook.queued}
        for workload, count in wanted.items():
            if count:
                order = await self._order(left, outlook, workload, min(count, _MAX_ROUND))
                if not depths[workload]:
                    order, leased = await self._hand_over(left, workload, order)
                    alone = outlook.alone.get(workload)
                    if alone is not None and leased == alone.batches and workload not in outlook.queued:
                        behind.discard(workload)
                queued += await self._queue(left, workload, order)
        if queued:
            await self._wakers.work()
        self._straight.open(self._ledger, left, behind)
        return _POLL_S if outlook.waiting else _IDLE_POLL_S

    def _size(self, workload: str) -> int:
        """What a batch's result takes of the buffer, in bytes."""
        # A workload that the registry has lost: nobody can compute it, so it takes no room.
        return self._sizes[workload].batch if workload in self._sizes else 1

    async def _order(self, left: room.Room, outlook: feeding.Outlook, workload: str, wanted: int) -> list[UUID]:
        """Whose batches are next, as far as there is room for them: their jobs, one for each batch."""
        fit, reserve = left.batches(self._size(workload))
        wanted = wanted if fit is None else min(wanted, fit)
        if not wanted:
            return []
        if workload in outlook.alone and not reserve:
            candidates, weights = [outlook.alone[workload]], outlook.weights
        else:
            candidates, weights = await self._batches.candidates(workload, _PER_LEVEL, small=reserve)
        if reserve:
            candidates = [
                replace(c, batches=min(c.batches, room.allowance(c.held_batches, gap=c.gap))) for c in candidates
            ]
        shares = self._shares.setdefault(workload, fairness.Shares())
        return [UUID(job_id) for job_id in fairness.plan(candidates, weights, shares, wanted, self._aging)]

    async def _hand_over(self, left: room.Room, workload: str, order: list[UUID]) -> tuple[list[UUID], int]:
        """Gives the first to idle workers; returns the others, and how many batches they got."""
        meant, leased = await self._handover.lease(self._ledger, workload, order) if order else (0, 0)
        left.take(leased * self._size(workload))
        return order[meant:], leased

    async def _queue(self, left: room.Room, workload: str, order: list[UUID]) -> int:
        """Moves batches to the work stream; returns how many."""
        if not order:
            return 0
        queued = await self._batches.feed(Counter(order))
        ids = [own.pop(0) for job_id in order if (own := queued.get(job_id))]
        await self._buffer.push(workload, ids)
        left.take(len(ids) * self._size(workload))
        log.debug("fed", workload=workload, batches=len(ids))
        return len(ids)
