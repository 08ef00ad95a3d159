"""A job's counters and what follows from them: its state, whether it can be fed, how long its results are kept.

Promises: whoever moves batches of a job locks the job first (`lock`, before the batches) and applies the difference in
the same transaction (`apply`), so that every counter is the sum over the job's batches whenever anybody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_LOCK_JOBS = text("""
    SELECT job_id FROM jobs WHERE job_id = ANY(CAST(:job_ids AS uuid[])) ORDER BY job_id FOR NO KEY UPDATE
""")

_APPLY_DELTAS = text("""
    WITH d AS (
        SELECT * FROM unnest(CAST(:job_ids AS uuid[]), CAST(:added AS int[]), CAST(:pending AS int[]),
            CAST(:finished AS int[]), CAST(:succeeded AS int[]), CAST(:failed AS int[]), CAST(:truncated AS int[]))
            AS d(job_id, added, pending, finished, succeeded, failed, truncated)
    ), after AS (
        SELECT j.job_id, j.batches_pending + d.pending AS pending,
            CASE WHEN j.state IN ('CANCELLED', 'EXPIRED') THEN j.state
                 WHEN j.batches_finished + d.finished = j.batch_count + d.added THEN 'COMPLETED'
                 WHEN j.state = 'COMPLETED' THEN 'RUNNING'
                 ELSE j.state END AS state
        FROM jobs j JOIN d ON d.job_id = j.job_id
    )
    UPDATE jobs j
    SET batch_count = j.batch_count + d.added,
        batches_pending = after.pending,
        batches_finished = j.batches_finished + d.finished,
        items_succeeded = j.items_succeeded + d.succeeded,
        items_failed = j.items_failed + d.failed,
        items_truncated = j.items_truncated + d.truncated,
        state = after.state,
        offered = j.offered OR (j.state = 'COMPLETED' AND after.state = 'RUNNING'),
        feedable = after.pending > 0 AND after.state IN ('PENDING', 'RUNNING'),
        finish_time = CASE WHEN after.state IN ('PENDING', 'RUNNING') THEN NULL ELSE coalesce(j.finish_time, now()) END,
        expire_time = CASE WHEN after.state IN ('PENDING', 'RUNNING') THEN NULL
                           ELSE coalesce(j.expire_time, now() + CAST(:retention AS interval)) END
    FROM d, after
    WHERE j.job_id = d.job_id AND j.job_id = after.job_id
    RETURNING j.job_id, j.acknowledged_item,
        EXISTS (SELECT FROM consumer_groups g WHERE g.app_id = j.app_id AND g.retire_time IS NULL) AS has_groups
""")


@dataclass(slots=True)
class Delta:
    """By how much the counters of one job change; `added` is batches."""

    added: int = 0
    pending: int = 0
    finished: int = 0
    succeeded: int = 0
    failed: int = 0
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class After:
    """What is known of a job once its counters are changed."""

    acknowledged_item: int
    """Its reader has acknowledged all before it."""
    has_groups: bool
    """Whether its app has consumer groups. Looked for under the lock, so whoever opens one later finds what is
    finished now by itself."""


async def lock(connection: AsyncConnection, job_ids: Iterable[UUID]) -> None:
    """Locks jobs in the order in which everybody locks them."""
    await connection.execute(_LOCK_JOBS, {"job_ids": list(job_ids)})


async def apply(connection: AsyncConnection, deltas: Mapping[UUID, Delta], retention: timedelta) -> dict[UUID, After]:
    """Applies the differences to jobs that this transaction has locked; `retention` is that of results."""
    if not deltas:
        return {}
    rows = await connection.execute(
        _APPLY_DELTAS,
        {
            "job_ids": list(deltas),
            "added": [d.added for d in deltas.values()],
            "pending": [d.pending for d in deltas.values()],
            "finished": [d.finished for d in deltas.values()],
            "succeeded": [d.succeeded for d in deltas.values()],
            "failed": [d.failed for d in deltas.values()],
            "truncated": [d.truncated for d in deltas.values()],
            "retention": retention,
        },
    )
    return {row.job_id: After(row.acknowledged_item, row.has_groups) for row in rows}
