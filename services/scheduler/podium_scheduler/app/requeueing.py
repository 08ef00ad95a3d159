"""Use case: an operator puts a failed batch back into the queue with a fresh retry budget.

A reader who has not come to its place finds the new outcome there; one who has passed it keeps the failure. Consumer
groups get the batch, and then the end of its job, again.
"""

from __future__ import annotations

from podium_runtime import errors, logs
from podium_scheduler.app import ports, wakers

log = logs.get_logger(__name__)


class Requeueing:
    """Requeues, and wakes the feeder and whoever looks at the job."""

    def __init__(self, ledger: ports.RequeueLedger, wakeups: ports.Wakeups, wake: wakers.Wakers) -> None:
        self._ledger = ledger
        self._wakeups = wakeups
        self._wakers = wake

    async def requeue(self, batch_id: int) -> None:
        """Returns once it is durable.

        Raises errors.NotFound (BATCH_NOT_FOUND), errors.FailedPrecondition (the reasons of domain.requeue.Refusal).
        """
        done = await self._ledger.requeue(batch_id)
        if done is None:
            raise errors.NotFound(f"there is no batch {batch_id}", reason="BATCH_NOT_FOUND")
        if done.refused is not None:
            raise errors.FailedPrecondition(f"batch {batch_id}: {done.refused.sentence}", reason=done.refused.value)
        log.info("batch_requeued", batch_id=batch_id, job_id=str(done.job_id))
        await self._wakers.feed()
        await self._wakeups.job_changed([(done.job_id, "state")])
