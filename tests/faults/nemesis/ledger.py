"""Reading the ledger behind everybody's back: the invariants, and the jobs as the verdict wants them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.faults.nemesis.cluster import LEDGER_AWAY, Cluster
from tests.faults.nemesis.history import BatchRow, JobRow

_HEADER = re.compile(r"^-- (always|quiet): (\w+)$", re.MULTILINE)
_SHOWN_ROWS = 5
_BETWEEN_LOOKS_S = 2.0


@dataclass(frozen=True, slots=True)
class Invariant:
    """A query whose rows are violations. `quiet`: only once all work is done."""

    name: str
    sql: str
    quiet: bool


def invariants() -> tuple[Invariant, ...]:
    """All of invariants.sql."""
    parts = _HEADER.split(Path(__file__).with_name("invariants.sql").read_text())[1:]
    return tuple(
        Invariant(name, sql.strip(), when == "quiet")
        for when, name, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    )


async def violations(connection: asyncpg.Connection[asyncpg.Record], *, quiet: bool) -> list[str]:
    """What the ledger violates now; the quiet ones only on demand."""
    found = []
    for invariant in invariants():
        if invariant.quiet and not quiet:
            continue
        rows = await connection.fetch(invariant.sql)
        if rows:
            shown = "; ".join(str(dict(row)) for row in rows[:_SHOWN_ROWS])
            found.append(f"ledger: {invariant.name}: {len(rows)} rows: {shown}")
    return found


class Watchman:
    """Looks at what must always hold, again and again, while everything breaks. `looks`: how often it could."""

    def __init__(self, cluster: Cluster) -> None:
        self.looks = 0
        self.found: list[str] = []
        self._cluster = cluster

    async def run(self) -> None:
        """Until cancelled, or until it has found something: what follows would be the same again."""
        while not self.found:
            try:
                async with self._cluster.ledger() as connection:
                    self.found += await violations(connection, quiet=False)
                self.looks += 1
            except LEDGER_AWAY:
                # Postgres is down or paused, which is no violation.
                pass
            await asyncio.sleep(_BETWEEN_LOOKS_S)


async def jobs(connection: asyncpg.Connection[asyncpg.Record]) -> list[JobRow]:
    """Every job with its batches in order; of an archived one only those that failed are left."""
    batches: dict[str, list[BatchRow]] = {}
    for row in await connection.fetch(
        "SELECT job_id, first_item, item_count, state, attempt, failure_reason FROM batches UNION ALL"
        " SELECT job_id, first_item, item_count, 'FAILED', attempt, failure_reason FROM failed_batches"
        " ORDER BY job_id, first_item"
    ):
        batches.setdefault(str(row["job_id"]), []).append(BatchRow(*tuple(row)[1:]))
    rows = await connection.fetch(
        "SELECT job_id, request_id, state, item_count, items_succeeded, items_failed, items_released, archived"
        " FROM jobs"
    )
    return [
        JobRow(
            job_id=str(row["job_id"]),
            request_id=str(row["request_id"]),
            state=row["state"],
            item_count=row["item_count"],
            items_succeeded=row["items_succeeded"],
            items_failed=row["items_failed"],
            items_released=row["items_released"],
            archived=row["archived"],
            batches=tuple(batches.get(str(row["job_id"]), ())),
        )
        for row in rows
    ]
