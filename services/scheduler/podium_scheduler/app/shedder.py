"""The shedder: when Redis is full of results that nobody fetches, others must still get on. Runs on the leader only.

The last resort, after feeding has stopped and readers were asked to acknowledge. It acts when, for a while, a job that
holds nothing could not be fed, no job was admitted, or what is in flight could not be stored. Then the largest holder's
latest results are dropped and will be computed again once there is room: its reader, who goes in order, needs them
last. Its first few stay, and so do those of ended jobs, which could not be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping

from podium_runtime import logs
from podium_scheduler.app import loops, lost_results, ports, records, wakers
from podium_scheduler.domain import fairness, room

log = logs.get_logger(__name__)
_INTERVAL_S = 1.0
_CALM_INTERVAL_S = 3.0
"""While the buffer is far from full and nobody is stuck."""
_PATIENCE_ROUNDS = 2
# Most rounds need one. But what a job's counters say that it holds, its first few batches may, which stay.
_HOLDERS = 100
_PER_LEVEL = 4
_PAGE = 500


class Shedder(loops.PatientLoop):
    """Drops results that stand in everybody's way."""

    name = "shedder"

    def __init__(
        self,
        batches: ports.BatchLedger,
        holdings: ports.HoldingsLedger,
        buffer: ports.WorkBuffer,
        results: ports.ResultBuffer,
        wake: wakers.Wakers,
        sizes: Mapping[str, room.Sizes],
    ) -> None:
        super().__init__()
        self._batches = batches
        self._holdings = holdings
        self._buffer = buffer
        self._results = results
        self._wakers = wake
        self._sizes = sizes
        self._stuck_rounds = 0
        self._calm = False

    async def round(self) -> float:
        """Sheds once somebody has been stuck for some rounds."""
        lacking = await self._lacking()
        self._stuck_rounds = self._stuck_rounds + 1 if lacking else 0
        if self._stuck_rounds > _PATIENCE_ROUNDS:
            await self._shed(lacking)
        return _CALM_INTERVAL_S if self._calm and not lacking else _INTERVAL_S

    async def _lacking(self) -> int:
        """Bytes to free so that whoever is stuck gets on; 0 when nobody is."""
        in_flight = await self._holdings.in_flight()
        left = room.Room(await self._buffer.memory(), room.total(in_flight, self._sizes))
        self._calm = left.memory.share < room.FEED_SHARE / 2
        if left.overflows or left.excess:
            return max(left.lacks(0), left.excess)
        for workload in await self._batches.waiting_workloads():
            lacks = left.lacks(self._sizes[workload].batch) if workload in self._sizes else 0
            if lacks and any(c.gap or not c.held_batches for c in await self._small(workload)):
                return lacks
        return 0

    async def _small(self, workload: str) -> list[fairness.Candidate]:
        found, _ = await self._batches.candidates(workload, _PER_LEVEL, small=True)
        return found

    async def _shed(self, goal: int) -> None:
        freed = 0
        for holder in await self._holdings.largest({w: s.item for w, s in self._sizes.items()}, _HOLDERS):
            latest = await self._holdings.latest_results(holder.job_id, room.SMALL_BATCHES, _PAGE)
            chosen: list[records.StoredResult] = []
            for result in latest:
                if freed >= goal:
                    break
                chosen.append(result)
                freed += result.item_count * self._sizes[holder.workload].item
            if chosen:
                await self._drop(holder, chosen)
            if freed >= goal:
                break
        if not freed:
            log.warning("buffer_full_of_small_jobs", advice="give Redis more memory, or read and acknowledge results")
        await self._wakers.feed()

    async def _drop(self, holder: records.Holder, chosen: list[records.StoredResult]) -> None:
        # The buffer first: a crash in between leaves results that are missed, and so computed again.
        await self._results.drop_batches(holder.job_id, [r.first_item for r in chosen])
        count = await self._batches.recompute(holder.job_id, [r.batch_id for r in chosen], shed=True)
        lost_results.RECOMPUTED.labels("shed").inc(count)
        log.warning("results_shed", job_id=str(holder.job_id), batches=count)
