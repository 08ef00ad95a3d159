"""The statements behind an operator's requeue: a failed batch waits again, as if it had never been tried.

Promises: one transaction under the job's lock, so that the decision and the write see the same batch, whatever readers,
consumers and the archive do meanwhile.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from podium_scheduler.adapters.sql import job_counters, offers
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import batches, jobs, requeue

_JOB_OF = text("""
    SELECT job_id FROM batches WHERE batch_id = :batch_id
    UNION ALL SELECT job_id FROM failed_batches WHERE batch_id = :batch_id
""")

# Of a batch that was archived only its failure is left.
_FACTS = text("""
    SELECT b.state, b.payload IS NOT NULL AS has_payload, j.state AS job_state, j.results_expired,
        coalesce(j.deadline <= now(), false) AS deadline_passed
    FROM jobs j JOIN (
        SELECT batch_id, job_id, state, payload FROM batches WHERE batch_id = :batch_id
        UNION ALL SELECT batch_id, job_id, 'FAILED', NULL FROM failed_batches WHERE batch_id = :batch_id
    ) AS b ON b.job_id = j.job_id
""")

# queue_time stays: a batch that was in the queue before leaves a gap that the reader may stand at (see domain.room).
_REQUEUE = text("""
    UPDATE batches
    SET state = 'PENDING', attempt = 0, not_before = now(), finish_time = NULL, failure_reason = NULL,
        failure_message = NULL, offered = false
    WHERE batch_id = :batch_id AND state = 'FAILED' AND payload IS NOT NULL
    RETURNING item_count
""")


class RequeueLedger:
    """Failed batches in Postgres; raises errors.Unavailable while it is away."""

    def __init__(self, database: Database, retention: timedelta) -> None:
        self._database = database
        self._retention = retention

    @ledger_call
    async def requeue(self, batch_id: int) -> records.Requeued | None:
        """Moves a FAILED batch to PENDING, or says why not; None when there is no such batch."""
        me: dict[str, Any] = {"batch_id": batch_id}
        async with self._database.transaction() as connection:
            job_id = await connection.scalar(_JOB_OF, me)
            if job_id is None:
                return None
            await job_counters.lock(connection, [job_id])
            row = (await connection.execute(_FACTS, me)).first()
            if row is None:
                return None
            refused = requeue.refusal(_facts(row))
            if refused is None:
                items = (await connection.execute(_REQUEUE, me)).scalar_one()
                delta = job_counters.Delta(pending=1, finished=-1, failed=-items)
                await job_counters.apply(connection, {job_id: delta}, self._retention)
                await offers.withdraw(connection, job_id, batch_id)
        return records.Requeued(job_id, refused)


def _facts(row: Any) -> requeue.Facts:
    return requeue.Facts(
        batch=batches.State(row.state),
        job=jobs.State(row.job_state),
        has_payload=row.has_payload,
        results_expired=row.results_expired,
        deadline_passed=row.deadline_passed,
    )
