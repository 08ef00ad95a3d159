"""What interactive calls ask for, by workload: one row each, written by every replica about once a second."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

# What is older than a minute counts for nothing: whoever waited then has gone. Calls that are served end the wait.
_RECORD = text("""
    INSERT INTO interactive_demand AS d (workload, last_asked, calls, waiting_since)
    VALUES (:workload, now(), :calls, CASE WHEN CAST(:waits AS boolean) THEN now() END)
    ON CONFLICT (workload) DO UPDATE SET
        last_asked = excluded.last_asked,
        calls = d.calls + excluded.calls,
        waiting_since = CASE
            WHEN excluded.waiting_since IS NULL THEN NULL
            WHEN d.last_asked < now() - interval '1 minute' THEN excluded.waiting_since
            ELSE coalesce(d.waiting_since, excluded.waiting_since)
        END
""")
_RECENT = text("""
    SELECT workload, waiting_since, coalesce(extract(epoch FROM now() - waiting_since), 0) AS waiting_s
    FROM interactive_demand WHERE last_asked > now() - interval '1 minute' ORDER BY workload
""")


class DemandLedger:
    """Demand in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def record(self, asked: Sequence[records.AskedFor]) -> None:
        """Adds calls that have come."""
        async with self._database.transaction() as connection:
            # In one order, so that replicas wait for one another and do not deadlock.
            for one in sorted(asked, key=lambda one: one.workload):
                waits = one.unserved == one.calls
                await connection.execute(_RECORD, {"workload": one.workload, "calls": one.calls, "waits": waits})

    @ledger_call
    async def recent(self) -> list[records.InteractiveDemand]:
        """Of the last minute, by workload."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_RECENT)).all()
        return [records.InteractiveDemand(row.workload, row.waiting_since, float(row.waiting_s)) for row in rows]
