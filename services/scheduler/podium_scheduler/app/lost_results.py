"""Results that the ledger counts as there and Redis does not have: their batches are computed again.

May be asked about any job at any time and by anyone: it looks for itself, and what is there stays. Both writes are
guarded by the batch's state, so two replicas that repair the same job do it once.
"""

from __future__ import annotations

from uuid import UUID

from prometheus_client import Counter

from podium_runtime import logs
from podium_scheduler.app import ports, wakers

log = logs.get_logger(__name__)
RECOMPUTED = Counter("podium_results_recomputed_total", "Batches computed again for want of their result.", ["cause"])

_STEP = 1_000


class LostResults:
    """Finds and repairs them, job by job."""

    def __init__(self, batches: ports.BatchLedger, results: ports.ResultBuffer, wake: wakers.Wakers) -> None:
        self._batches = batches
        self._results = results
        self._wakers = wake

    async def recompute(self, job_id: UUID) -> int:
        """Sends the batches of a job whose results are gone back to be computed; returns how many there were."""
        # In this order: results come before the ledger, so what completes meanwhile is not taken for lost.
        completed = await self._batches.completed_of(job_id)
        there = await self._results.result_items(job_id) if completed else set()
        lost = [batch_id for first_item, batch_id in completed.items() if first_item not in there]
        if not lost:
            return 0
        # In steps: who finishes a batch of the same job waits for no more than one of them.
        count = 0
        for start in range(0, len(lost), _STEP):
            count += await self._batches.recompute(job_id, lost[start : start + _STEP])
        RECOMPUTED.labels("lost").inc(count)
        log.warning("lost_results_recomputed", job_id=str(job_id), batches=count)
        await self._wakers.feed()
        return count
