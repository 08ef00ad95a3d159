"""Use cases on an app's own jobs: read, list, cancel, release. Another app's job does not exist."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timedelta
from uuid import UUID

from podium_runtime import errors
from podium_scheduler.app import lost_results, ports, records, revocation
from podium_scheduler.domain import jobs

_RELEASE_STEP = 1_000


class JobsOfApps:
    """What the gateways ask for."""

    def __init__(
        self,
        ledger: ports.JobLedger,
        results: ports.ResultBuffer,
        lost: lost_results.LostResults,
        revoke: revocation.Revocation,
        retention: timedelta,
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._lost = lost
        self._revoke = revoke
        self._retention = retention

    async def get(self, app_id: str, job_id: UUID) -> records.Job:
        """Raises errors.NotFound."""
        return _found(await self._ledger.job(app_id, job_id), job_id)

    async def list_page(
        self, app_id: str, chosen: records.JobFilter, page_size: int, page_token: str
    ) -> tuple[list[records.Job], str]:
        """One page, newest first, and the token of the next, '' after the last. Raises errors.InvalidArgument."""
        before = _position(page_token, _digest(app_id, chosen)) if page_token else None
        found = await self._ledger.list_jobs(app_id, chosen, before, page_size + 1)
        if len(found) <= page_size:
            return found, ""
        return found[:page_size], _token(found[page_size - 1], _digest(app_id, chosen))

    async def cancel(self, app_id: str, job_id: UUID) -> records.Job:
        """Cancels what is left. Idempotent; raises errors.NotFound or FailedPrecondition."""
        ended = await self._ledger.cancel(app_id, job_id, self._retention)
        job = _found(ended.job if ended else None, job_id)
        if ended is None or not jobs.may_cancel(job.state):
            raise errors.FailedPrecondition(
                f"job {job_id} is {job.state.value} already",
                reason="JOB_FINISHED",
                metadata={"state": job.state.value},
            )
        await self._revoke.spread(ended, "cancelled")
        return job

    async def batches(self, app_id: str, job_id: UUID, from_item: int, limit: int) -> list[records.Batch]:
        """Batches from an item on. Raises errors.NotFound."""
        await self.get(app_id, job_id)
        return await self._ledger.list_batches(job_id, from_item, limit)

    async def recompute_lost(self, app_id: str, job_id: UUID) -> int:
        """A reader misses the result of a batch that the ledger calls COMPLETED. Raises errors.NotFound."""
        await self.get(app_id, job_id)
        return await self._lost.recompute(job_id)

    async def release(self, app_id: str, job_id: UUID, before_item: int) -> records.Job:
        """The client has made all results before an item durable. The ledger first, then the buffer.

        In steps: who finishes a batch of the same job waits for no more than one of them.
        """
        while True:
            found, more = await self._ledger.release(app_id, job_id, before_item, _RELEASE_STEP)
            job = _found(found, job_id)
            await self._results.release_results(job_id, job.items_released)
            if not more:
                return job


def _found(job: records.Job | None, job_id: UUID) -> records.Job:
    if job is None:
        raise errors.NotFound(f"there is no job {job_id}", reason="JOB_NOT_FOUND", metadata={"job_id": str(job_id)})
    return job


def _digest(app_id: str, chosen: records.JobFilter) -> str:
    """Ties a page token to its app and filters."""
    content = [app_id, sorted(chosen.states), sorted((chosen.labels or {}).items()), chosen.workload]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _token(last: records.Job, digest: str) -> str:
    content = json.dumps([last.create_time.isoformat(), str(last.job_id), digest])
    return base64.urlsafe_b64encode(content.encode()).decode()


def _position(token: str, digest: str) -> tuple[datetime, UUID]:
    try:
        created, job_id, theirs = json.loads(base64.urlsafe_b64decode(token.encode()))
        position = (datetime.fromisoformat(created), UUID(job_id))
    except (ValueError, TypeError, AttributeError):
        theirs = None
    if theirs != digest:
        raise errors.InvalidArgument(
            [errors.Violation("page_token", "is not a token of this listing; start again without one")]
        )
    return position
