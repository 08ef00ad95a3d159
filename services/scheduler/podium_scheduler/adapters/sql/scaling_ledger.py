"""What the autoscaler rests on: limits, throughputs, the work by when it is due; and what it decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects import postgresql

from podium_scheduler.adapters.sql import schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import room

NEWEST_WEIGHS = 0.1
_KEPT_DECISIONS = 200
"""Of each workload, acts and what was said apart."""

_THROUGHPUTS = schema.throughputs
_LIMITS = tuple(schema.autoscaling.c[name] for name in records.ScalingLimits.__dataclass_fields__)
# Eight buckets of time for each doubling of what is left until it is due, or of what has passed since it came: a few
# dozen rows a workload, however many jobs there are. All of a bucket is due when its first job is: too early by an
# eleventh of the time that is left at most. Coarser ones had pods rented that nobody needed.
# In floating point: a logarithm of a numeric, which is what a span's seconds are, takes a hundred times as long.
_LOG2 = "ln(greatest(CAST(extract(epoch FROM {}) AS double precision), 1)) / ln(CAST(2 AS double precision))"
# Of a job that lacks room for its results: what may be done is what is in flight, and what the reserve gives to who
# holds little (see domain.room). It waits since it was fed: before, nobody could have done it. Batches are looked at
# only where a workload lacks room, by the two partial indexes on what is in flight.
_PARTS = f"""
    WITH tight AS (
        SELECT * FROM unnest(CAST(:tight AS text[]), CAST(:unread AS int[]), CAST(:reserve AS boolean[]))
            AS t(workload, unread, reserve)
    ), fed AS (
        SELECT job_id, sum(item_count) AS items, min(queue_time) AS since FROM (
            SELECT job_id, item_count, queue_time FROM batches WHERE state = 'QUEUED'
            UNION ALL SELECT job_id, item_count, queue_time FROM batches WHERE session_id IS NOT NULL) AS b
        WHERE EXISTS (SELECT FROM tight) GROUP BY job_id
    ), parts AS (
        SELECT j.job_id, j.workload, j.create_time, j.deadline, j.budget_micro_usd,
            j.item_count - j.items_succeeded - j.items_failed AS items, coalesce(fed.since, j.create_time) AS since,
            CASE WHEN t.workload IS NULL THEN 0 ELSE greatest(0,
                j.item_count - j.items_succeeded - j.items_failed - greatest(coalesce(fed.items, 0),
                    CASE WHEN t.reserve THEN {room.SMALL_BATCHES} * greatest(1, j.item_count / j.batch_count)
                        - (j.items_succeeded + j.items_failed - j.items_released) ELSE 0 END)) END AS held
        FROM jobs j
        LEFT JOIN tight t
            ON t.workload = j.workload AND j.items_succeeded + j.items_failed - j.items_released > t.unread
        LEFT JOIN fed ON fed.job_id = j.job_id AND t.workload IS NOT NULL
        WHERE j.state IN ('PENDING','RUNNING') AND j.item_count > j.items_succeeded + j.items_failed
    )
"""
_DEMANDS = text(f"""
    {_PARTS}
    SELECT p.workload, CAST(sum(part.items) AS bigint) AS items, min(part.since) AS since, min(p.deadline) AS due,
        part.held
    FROM parts p CROSS JOIN LATERAL (VALUES (p.items - p.held, p.since, false), (p.held, p.create_time, true))
        AS part(items, since, held)
    WHERE part.items > 0 AND p.budget_micro_usd IS NULL
    GROUP BY p.workload, part.held,
        coalesce(floor(8 * {_LOG2.format("p.deadline - now()")}), -1),
        CASE WHEN p.deadline IS NULL THEN floor(8 * {_LOG2.format("now() - part.since")}) END
    ORDER BY p.workload, due NULLS LAST, since
""")
# One by one, for each has its own cost.
_BUDGETED = text(f"""
    {_PARTS}
    SELECT job_id, workload, items, since, deadline, budget_micro_usd, CAST(held AS bigint) FROM parts
    WHERE budget_micro_usd IS NOT NULL
    ORDER BY create_time, job_id
""")
_LATELY = timedelta(minutes=15)
_ARRIVALS = text("""
    SELECT workload, sum(item_count) AS items, extract(epoch FROM min(deadline - create_time)) AS window_s
    FROM jobs WHERE create_time > now() - CAST(:lately AS interval) GROUP BY workload
""")
# Acts apart from what was only said: else the reasons of pods would soon be lost among alerts.
_FORGET = text("""
    DELETE FROM pod_decisions d
    WHERE d.workload = :workload AND (d.kind IN ('Wait','Alert')) = :said AND d.decision_id <= (
        SELECT decision_id FROM pod_decisions
        WHERE workload = :workload AND (kind IN ('Wait','Alert')) = :said
        ORDER BY decision_id DESC OFFSET :kept LIMIT 1
    )
""")


class ScalingLedger:
    """The autoscaler's memory in Postgres. Every method is one transaction; all raise errors.Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def limits(self) -> records.ScalingLimits | None:
        """What an operator has set; None: nothing yet."""
        async with self._database.peek() as connection:
            row = (await connection.execute(select(*_LIMITS))).first()
        return None if row is None else records.ScalingLimits(*row)

    @ledger_call
    async def set_limits(self, limits: records.ScalingLimits) -> None:
        """From now on, for every replica."""
        values = {name: getattr(limits, name) for name in records.ScalingLimits.__dataclass_fields__}
        insert = postgresql.insert(schema.autoscaling).values(singleton=True, **values)
        async with self._database.transaction() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=["singleton"], set_=values))

    @ledger_call
    async def decide(self, decisions: Sequence[records.Decision]) -> None:
        """Keeps decisions, the newest of each workload only."""
        table = schema.pod_decisions
        rows = [{"workload": d.workload, "kind": d.kind, "reason": d.reason, "pod_id": d.pod_id} for d in decisions]
        async with self._database.transaction() as connection:
            await connection.execute(table.insert(), rows)
            for workload, said in sorted({(d.workload, d.kind in ("Wait", "Alert")) for d in decisions}):
                await connection.execute(_FORGET, {"workload": workload, "said": said, "kept": _KEPT_DECISIONS})

    @ledger_call
    async def decisions(self, workload: str, limit: int) -> list[records.Decision]:
        """Of a workload, and those that concern all, the newest first."""
        table = schema.pod_decisions
        statement = (
            select(table.c.time, table.c.workload, table.c.kind, table.c.reason, table.c.pod_id)
            .where(table.c.workload.in_([workload, ""]))
            .order_by(table.c.decision_id.desc())
            .limit(limit)
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(statement)).all()
        return [records.Decision(r.workload, r.kind, r.reason, r.pod_id, r.time) for r in rows]

    @ledger_call
    async def demands(self, tight: Mapping[str, room.Tight]) -> list[records.DemandRow]:
        """Items without an outcome of jobs without a budget, summed up by workload and by when they are due, those
        apart that wait for room, of the workloads that are `tight`; cost follows the active jobs."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_DEMANDS, _of(tight))).all()
        return [records.DemandRow(*row) for row in rows]

    @ledger_call
    async def budgeted(self, tight: Mapping[str, room.Tight]) -> list[records.BudgetedJob]:
        """Every active job with a budget of its own, the oldest first."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_BUDGETED, _of(tight))).all()
        return [records.BudgetedJob(*row) for row in rows]

    @ledger_call
    async def arrivals(self) -> dict[str, records.Arrivals]:
        """What came lately, by workload."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_ARRIVALS, {"lately": _LATELY})).all()
        return {
            row.workload: records.Arrivals(
                row.items / _LATELY.total_seconds(), None if row.window_s is None else max(0.0, float(row.window_s))
            )
            for row in rows
        }

    @ledger_call
    async def record_throughputs(self, seen: Sequence[records.Throughput]) -> None:
        """Adds what workers did."""
        new = postgresql.insert(_THROUGHPUTS)
        mean = _THROUGHPUTS.c.items_per_s
        statement = new.on_conflict_do_update(
            index_elements=[_THROUGHPUTS.c.workload, _THROUGHPUTS.c.device_name],
            set_={
                "items_per_s": mean + NEWEST_WEIGHS * (new.excluded.items_per_s - mean),
                "batch_count": _THROUGHPUTS.c.batch_count + new.excluded.batch_count,
                "last_time": new.excluded.last_time,
            },
        )
        async with self._database.transaction() as connection:
            # In one order, so that replicas wait for one another and do not deadlock.
            for one in sorted(seen, key=lambda one: (one.workload, one.device_name)):
                await connection.execute(
                    statement.values(
                        workload=one.workload,
                        device_name=one.device_name,
                        items_per_s=one.items_per_s,
                        batch_count=one.batch_count,
                        last_time=func.now(),
                    )
                )

    @ledger_call
    async def throughputs(self) -> list[records.Throughput]:
        """What is known, by workload, then by device name."""
        columns = (_THROUGHPUTS.c.workload, _THROUGHPUTS.c.device_name, _THROUGHPUTS.c.items_per_s)
        statement = select(*columns, _THROUGHPUTS.c.batch_count).order_by(*columns[:2])
        async with self._database.peek() as connection:
            return [records.Throughput(*row) for row in (await connection.execute(statement)).all()]


def _of(tight: Mapping[str, room.Tight]) -> dict[str, Any]:
    return {
        "tight": list(tight),
        "unread": [one.unread for one in tight.values()],
        "reserve": [one.reserve for one in tight.values()],
    }
