"""Statements about what is over: batches leave the hot table, and then jobs the ledger.

A job is archived when it is final and all of its results are released, or their retention has passed. Its batches serve
nobody then, except the failed ones, which operators still look up: those move to `failed_batches`, the others go. The
job's row stays until its own retention ends.

Promises: every call is one transaction of bounded size, and waits for no lock that anybody holds (SKIP LOCKED), so it
delays no claim and can be part of no deadlock. Whoever is killed between two calls leaves a job that is still due: the
next leader goes on with the rest. Nothing else writes the batches of such a job: `release` and `recompute` change
nothing once results have expired, and all else that writes batches wants them unfinished. The database's clock decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from podium_scheduler.adapters.sql import offers
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

_DUE = text("""
    WITH due AS (
        SELECT job_id, items_released < item_count AS unread FROM jobs
        WHERE archive_due <= now() ORDER BY archive_due LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
    ), expired AS (
        UPDATE jobs SET results_expired = true FROM due
        WHERE jobs.job_id = due.job_id AND due.unread AND NOT jobs.results_expired
    )
    SELECT job_id FROM due
""")

_LOCK_DUE = text("""
    SELECT job_id FROM jobs
    WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND archive_due <= now()
      AND (results_expired OR items_released = item_count)
    ORDER BY job_id FOR NO KEY UPDATE SKIP LOCKED
""")

# The first batch goes whatever its size, so that every step gets on. `octet_length` reads no payload, only its header.
# The limit comes before the sum, which would read, and so lock, the next batches of every job that is due.
_MOVE = text("""
    WITH picked AS (
        SELECT b.batch_id, b.bytes
        FROM unnest(CAST(:job_ids AS uuid[])) AS due(job_id) CROSS JOIN LATERAL (
            SELECT batch_id, coalesce(octet_length(payload), 0) AS bytes FROM batches
            WHERE job_id = due.job_id ORDER BY first_item LIMIT :max_batches FOR UPDATE SKIP LOCKED) AS b
        LIMIT :max_batches
    ), next AS (
        SELECT batch_id, sum(bytes) OVER (ORDER BY batch_id) - bytes AS bytes_before FROM picked
    ), gone AS (
        DELETE FROM batches USING next
        WHERE batches.batch_id = next.batch_id AND next.bytes_before < :max_payload_bytes
        RETURNING batches.*
    ), kept AS (
        INSERT INTO failed_batches (batch_id, job_id, first_item, item_count, attempt, failure_reason,
                                    failure_message, finish_time)
        SELECT batch_id, job_id, first_item, item_count, attempt, failure_reason, failure_message, finish_time
        FROM gone WHERE state = 'FAILED'
    )
    SELECT count(*) FROM gone
""")

_ARCHIVED = text("""
    UPDATE jobs SET archived = true
    WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND NOT EXISTS (SELECT FROM batches b WHERE b.job_id = jobs.job_id)
    RETURNING job_id
""")

_REMOVABLE = text("""
    SELECT job_id FROM jobs WHERE archived AND finish_time <= now() - CAST(:retention AS interval)
    ORDER BY finish_time LIMIT :max_jobs FOR UPDATE SKIP LOCKED
""")

_FORGET_FAILURES = text("""
    DELETE FROM failed_batches WHERE batch_id IN (
        SELECT batch_id FROM failed_batches WHERE job_id = ANY(CAST(:job_ids AS uuid[])) LIMIT :max_failures)
""")

_REMOVE = text("""
    DELETE FROM jobs WHERE job_id = ANY(CAST(:job_ids AS uuid[]))
      AND NOT EXISTS (SELECT FROM failed_batches f WHERE f.job_id = jobs.job_id)
    RETURNING job_id
""")

_OVER_AMONG = text("""
    SELECT a.job_id FROM unnest(CAST(:job_ids AS uuid[])) AS a(job_id)
    WHERE NOT EXISTS (SELECT FROM jobs j
                      WHERE j.job_id = a.job_id AND NOT j.archived AND j.items_released < j.item_count)
""")


class ArchiveLedger:
    """What is over, in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def due(self, limit: int) -> list[UUID]:
        """Jobs whose batches may go, the longest due first. What was unread of them has expired from here on."""
        async with self._database.transaction() as connection:
            return list((await connection.scalars(_DUE, {"limit": limit})).all())

    @ledger_call
    async def archive(
        self, job_ids: Sequence[UUID], *, max_batches: int, max_payload_bytes: int
    ) -> records.ArchiveStep:
        """Takes the next batches of jobs that are due out of the hot table, up to a number and to about a size."""
        async with self._database.transaction() as connection:
            ours = list((await connection.scalars(_LOCK_DUE, {"job_ids": list(job_ids)})).all())
            bounds = {"max_batches": max_batches, "max_payload_bytes": max_payload_bytes}
            moved = await connection.scalar(_MOVE, {"job_ids": ours, **bounds})
            done = (await connection.scalars(_ARCHIVED, {"job_ids": ours})).all()
            # What consumer groups had not acknowledged has gone with the batches; the end of the job is still told.
            await offers.ready_ends(connection, done)
        return records.ArchiveStep(moved or 0, tuple(done))

    @ledger_call
    async def remove(self, retention: timedelta, *, max_jobs: int, max_failures: int) -> list[UUID]:
        """Deletes archived jobs whose own retention has passed; one with many failures in several steps."""
        async with self._database.transaction() as connection:
            values = {"retention": retention, "max_jobs": max_jobs}
            over = list((await connection.scalars(_REMOVABLE, values)).all())
            await connection.execute(_FORGET_FAILURES, {"job_ids": over, "max_failures": max_failures})
            return list((await connection.scalars(_REMOVE, {"job_ids": over})).all())

    @ledger_call
    async def over_among(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Those of the jobs of which nobody can read results any more: released, archived or unknown."""
        async with self._database.peek() as connection:
            return list((await connection.scalars(_OVER_AMONG, {"job_ids": list(job_ids)})).all())
