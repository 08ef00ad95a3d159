"""What somebody has to see to, asked in one statement that only reads: the leader asks it all the time."""

from __future__ import annotations

from sqlalchemy import text

from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

# Each by a partial index that holds little else. It may say more than the loop that is woken will find, as when all is
# locked, and never less: a condition here is that of the loop's own statement, or a weaker one.
_DUE = text("""
    SELECT EXISTS (SELECT FROM sessions WHERE state <> 'ENDED' AND expire_time <= now())
            OR EXISTS (SELECT FROM batches b JOIN sessions s ON s.session_id = b.session_id
                       WHERE b.state = 'LEASED' AND s.state = 'ENDED') AS lost_leases,
        EXISTS (SELECT FROM jobs
                WHERE deadline <= now() AND deadline IS NOT NULL AND state IN ('PENDING', 'RUNNING') AND NOT offered)
            OR EXISTS (SELECT FROM jobs WHERE archive_due <= now()) AS over_jobs,
        EXISTS (SELECT FROM consumers WHERE expire_time <= now())
            OR EXISTS (SELECT FROM consumer_groups WHERE NOT filled AND retire_time IS NULL) AS consumers,
        EXISTS (SELECT FROM jobs WHERE feedable) AS waiting
""")


class DueLedger:
    """Looks at everything at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def due(self) -> records.Due:
        """What is due now, by the database's clock."""
        async with self._database.peek() as connection:
            return records.Due(*(await connection.execute(_DUE)).one())
