"""What follows when batches have a result: the counters of their jobs, deliveries to consumer groups, and releases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql import job_counters, offers
from podium_scheduler.app import records

# The difference to an earlier result of the same batch, which was lost.
_COUNT_DEDUPLICATED = text("""
    WITH done(batch_id, items) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:items AS int[]))
    ), before AS (
        SELECT b.batch_id, b.job_id, b.items_deduplicated AS was, d.items FROM done d
        JOIN batches b ON b.batch_id = d.batch_id
    ), written AS (
        UPDATE batches b SET items_deduplicated = before.items FROM before WHERE b.batch_id = before.batch_id
    )
    UPDATE jobs j SET items_deduplicated = j.items_deduplicated + s.more
    FROM (SELECT job_id, sum(items - was) AS more FROM before GROUP BY job_id) AS s WHERE j.job_id = s.job_id
""")


async def finish(
    connection: AsyncConnection, rows: Sequence[Any], retention: timedelta, *, were_pending: bool = False
) -> tuple[set[int], list[records.Released]]:
    """Counts and offers batches that were COMPLETED by this transaction, which has locked their jobs.

    `rows` have batch_id, job_id, end_item, items_succeeded, items_failed, items_truncated and offered. Returns the
    groups that have new deliveries, and what was released.
    """
    deltas: dict[UUID, job_counters.Delta] = defaultdict(job_counters.Delta)
    for row in rows:
        delta = deltas[row.job_id]
        delta.pending -= int(were_pending)
        delta.finished += 1
        delta.succeeded += row.items_succeeded
        delta.failed += row.items_failed
        delta.truncated += row.items_truncated
    after = await job_counters.apply(connection, deltas, retention)
    offered = [row.batch_id for row in rows if after[row.job_id].has_groups]
    groups = await offers.offer(connection, [job_id for job_id in deltas if after[job_id].has_groups], offered)
    # Some were computed again although all that wanted them have acknowledged them meanwhile.
    over = [r.batch_id for r in rows if r.offered or r.end_item <= after[r.job_id].acknowledged_item]
    return groups, await offers.release(connection, over)


async def count_deduplicated(
    connection: AsyncConnection, rows: Sequence[Any], completions: Sequence[records.Completion]
) -> None:
    """Counts what was not computed for those of the batches where that is counted; see `finish`."""
    settled = {row.batch_id for row in rows}
    counted = [c for c in completions if c.items_deduplicated is not None and c.batch_id in settled]
    if counted:
        values = {"batch_ids": [c.batch_id for c in counted], "items": [c.items_deduplicated for c in counted]}
        await connection.execute(_COUNT_DEDUPLICATED, values)
