"""Statements about what jobs hold of the buffer: in flight, and finished but not acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import text

from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

# By the two partial indexes on what is in flight: as many rows as the workers have credits, not more.
_IN_FLIGHT = text("""
    SELECT j.workload, CAST(sum(b.item_count) AS bigint) AS items FROM (
        SELECT job_id, item_count FROM batches WHERE state = 'QUEUED'
        UNION ALL SELECT job_id, item_count FROM batches WHERE session_id IS NOT NULL) AS b
    JOIN jobs j ON j.job_id = b.job_id GROUP BY j.workload
""")

# An item without a vector takes next to nothing, and one whose batch was given up nothing at all.
_LARGEST = text("""
    SELECT j.job_id, j.workload
    FROM jobs j JOIN unnest(CAST(:workloads AS text[]), CAST(:sizes AS int[])) AS s(workload, item_bytes)
        ON s.workload = j.workload
    WHERE NOT j.archived AND NOT j.results_expired AND j.state IN ('RUNNING', 'COMPLETED') AND j.batches_finished > 0
      AND j.items_released < j.item_count
    ORDER BY least(j.items_succeeded, j.items_succeeded + j.items_failed - j.items_released)
        * CAST(s.item_bytes AS bigint) DESC LIMIT :limit
""")

_LATEST_RESULTS = text("""
    SELECT batch_id, first_item, item_count FROM (
        SELECT batch_id, first_item, item_count, row_number() OVER (ORDER BY first_item) AS place FROM batches
        WHERE job_id = :job_id AND state = 'COMPLETED') AS stored
    WHERE place > :spared ORDER BY first_item DESC LIMIT :limit
""")


class HoldingsLedger:
    """Who holds how much. Every method is one transaction; all raise errors.Unavailable while Postgres is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def in_flight(self) -> dict[str, int]:
        """Items of the batches that are QUEUED or LEASED, by workload."""
        async with self._database.peek() as connection:
            return {r.workload: r.items for r in (await connection.execute(_IN_FLIGHT)).all()}

    @ledger_call
    async def largest(self, item_bytes: Mapping[str, int], limit: int) -> list[records.Holder]:
        """The jobs with the most bytes of unacknowledged results that could be computed again."""
        values = {"workloads": list(item_bytes), "sizes": list(item_bytes.values()), "limit": limit}
        async with self._database.peek() as connection:
            return [records.Holder(*row) for row in (await connection.execute(_LARGEST, values)).all()]

    @ledger_call
    async def latest_results(self, job_id: UUID, spared: int, limit: int) -> list[records.StoredResult]:
        """A job's COMPLETED batches, the last first, without its first `spared`."""
        values = {"job_id": job_id, "spared": spared, "limit": limit}
        async with self._database.peek() as connection:
            return [records.StoredResult(*row) for row in (await connection.execute(_LATEST_RESULTS, values)).all()]
