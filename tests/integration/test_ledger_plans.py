"""What runs all the time must not read all of history: no loop's statement scans the table of batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import TextClause, text

from podium_scheduler.adapters.sql import batch_ledger, database, operator_ledger, session_ledger
from tests.support import stack

STATEMENTS = {
    "depths": batch_ledger._DEPTHS,
    "open batch counts": batch_ledger._OPEN_BATCH_COUNTS,
    "queues": operator_ledger._QUEUES,
    "stray leases": session_ledger._ENDED_WITH_LEASES,
    "leases of a session": batch_ledger._LEASES_OF,
    "queued for long": batch_ledger._QUEUED_SINCE,
}
PARAMETERS = {":limit": "10", ":age": "'5 s'", ":session_ids": "'{}'"}


def _explain(statement: TextClause) -> TextClause:
    sql = statement.text
    for name, value in PARAMETERS.items():
        sql = sql.replace(name, value)
    return text(f"EXPLAIN {sql}")


async def test_no_statement_of_a_loop_reads_all_batches(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            async with ledger.transaction() as connection:
                # The tables are empty, so a scan would be cheapest; now it is taken only where nothing else does.
                await connection.execute(text("SET LOCAL enable_seqscan = off"))
                for name, statement in STATEMENTS.items():
                    plan = "\n".join((await connection.scalars(_explain(statement))).all())
                    for whole in ("Seq Scan on batches", "pk_batches", "uq_batches"):
                        if whole in plan:
                            pytest.fail(f"{name} reads all batches:\n{plan}")
        finally:
            await ledger.close()
