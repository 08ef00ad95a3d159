"""Statements about consumer groups, their consumers and what these have in hand.

A delivery is held by at most one consumer at a time, for as long as the consumer's row lives: it is renewed by the
gateway, deleted when the stream ends, and deleted by the leader when it has expired by the database's clock. The
foreign key then sets its deliveries free. An acknowledgement deletes a delivery; it counts only while its consumer
holds it, and an acknowledgement that came too late means that the delivery comes again.

A group gets nothing before it has been filled with what had finished before it was opened (see `offers.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_runtime import errors
from podium_scheduler.adapters.sql import job_ledger, offers, schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import batches

MAX_GROUPS = 16
_FILL_JOBS = 50

_OPEN_GROUP = text("""
    INSERT INTO consumer_groups (app_id, name, workload)
    SELECT app_id, :name, :workload FROM apps WHERE app_id = :app_id
    ON CONFLICT (app_id, name) WHERE retire_time IS NULL DO UPDATE SET seen_time = now()
    RETURNING group_id, workload
""")

_COUNT_GROUPS = text("SELECT count(*) FROM consumer_groups WHERE app_id = :app_id AND retire_time IS NULL")

_OPEN_CONSUMER = text("""
    INSERT INTO consumers (consumer_id, group_id, expire_time)
    VALUES (:consumer_id, :group_id, now() + CAST(:ttl AS interval))
""")

_RENEW = text("""
    UPDATE consumers c SET expire_time = now() + CAST(:ttl AS interval) FROM consumer_groups g
    WHERE c.consumer_id = :consumer_id AND g.group_id = c.group_id AND g.retire_time IS NULL
    RETURNING c.group_id, g.filled
""")

_GIVE_BACK = text("""
    UPDATE deliveries SET consumer_id = NULL
    WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[])) AND consumer_id = :consumer_id
""")

# Costs what it gives, whatever else waits. What has expired is gone from Redis and leaves the ledger soon: a claim that
# comes upon it puts it aside.
_CLAIM = text("""
    WITH picked AS (
        SELECT d.delivery_id, d.batch_id IS NOT NULL AND j.results_expired AS gone
        FROM deliveries d JOIN jobs j ON j.job_id = d.job_id
        WHERE d.group_id = :group_id AND d.consumer_id IS NULL AND d.ready
        ORDER BY d.delivery_id LIMIT :limit FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE deliveries
    SET ready = NOT picked.gone, consumer_id = CASE WHEN NOT picked.gone THEN CAST(:consumer_id AS uuid) END
    FROM picked WHERE deliveries.delivery_id = picked.delivery_id
""")

_HOLDS = text("""
    SELECT d.delivery_id, d.job_id, d.batch_id, b.first_item, b.item_count, b.state, b.attempt, b.failure_reason,
        b.failure_message
    FROM deliveries d LEFT JOIN batches b ON b.batch_id = d.batch_id
    WHERE d.consumer_id = :consumer_id AND d.delivery_id <> ALL(CAST(:known AS bigint[]))
    ORDER BY d.delivery_id
""")

_JOBS_OF = text("""
    SELECT DISTINCT job_id FROM deliveries
    WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[])) AND consumer_id = :consumer_id
""")

_LOCK_JOBS = text("""
    SELECT job_id FROM jobs WHERE job_id = ANY(CAST(:job_ids AS uuid[])) ORDER BY job_id FOR NO KEY UPDATE
""")

_ACKNOWLEDGE = text("""
    DELETE FROM deliveries
    WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[])) AND consumer_id = :consumer_id
    RETURNING batch_id
""")

_CLOSE = text("""
    WITH gone AS (DELETE FROM consumers WHERE consumer_id = :consumer_id RETURNING group_id)
    UPDATE consumer_groups SET seen_time = now() FROM gone WHERE consumer_groups.group_id = gone.group_id
    RETURNING gone.group_id
""")

_EXPIRE = text("""
    WITH due AS (
        SELECT consumer_id FROM consumers WHERE expire_time <= now() ORDER BY expire_time LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM consumers c USING due WHERE c.consumer_id = due.consumer_id RETURNING c.group_id
    )
    UPDATE consumer_groups g SET seen_time = now() WHERE g.group_id IN (SELECT group_id FROM gone)
    RETURNING g.group_id
""")

_UNFILLED = text("""
    SELECT app_id, workload, coalesce(filled_create_time, '-infinity') AS create_time,
        coalesce(filled_job_id, CAST('00000000-0000-0000-0000-000000000000' AS uuid)) AS job_id
    FROM consumer_groups WHERE group_id = :group_id AND NOT filled AND retire_time IS NULL FOR NO KEY UPDATE
""")

_ALL_UNFILLED = text("SELECT group_id FROM consumer_groups WHERE NOT filled AND retire_time IS NULL LIMIT :limit")

_NEXT_JOBS = text("""
    SELECT job_id, create_time FROM jobs
    WHERE app_id = :app_id AND (create_time, job_id) > (:create_time, :job_id)
    ORDER BY create_time, job_id LIMIT :limit
""")

_FILL = text("""
    WITH chosen AS (
        SELECT job_id, state, offered FROM jobs
        WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND :workload IN ('', workload) AND items_released < item_count
          AND NOT results_expired
    ), finished AS (
        INSERT INTO deliveries (group_id, job_id, batch_id, ready)
        SELECT :group_id, b.job_id, b.batch_id, b.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
        FROM chosen JOIN batches b ON b.job_id = chosen.job_id
        WHERE b.payload IS NOT NULL AND (b.offered OR b.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED'))
        ORDER BY b.job_id, b.first_item
        ON CONFLICT (batch_id, group_id) DO NOTHING
    )
    INSERT INTO deliveries (group_id, job_id, ready)
    SELECT :group_id, c.job_id, false FROM chosen c
    WHERE (c.offered OR c.state IN ('COMPLETED', 'CANCELLED', 'EXPIRED')) AND NOT EXISTS (
        SELECT FROM deliveries d WHERE d.job_id = c.job_id AND d.group_id = :group_id AND d.batch_id IS NULL)
""")

_FILLED = text("""
    UPDATE consumer_groups SET filled_create_time = :create_time, filled_job_id = :job_id, filled = :filled
    WHERE group_id = :group_id
""")
_ALL_FILLED = text("UPDATE consumer_groups SET filled = true WHERE group_id = :group_id")

_RETIRE = text("""
    UPDATE consumer_groups g SET retire_time = now()
    WHERE g.retire_time IS NULL AND g.seen_time < now() - CAST(:retention AS interval)
      AND NOT EXISTS (SELECT FROM consumers c WHERE c.group_id = g.group_id)
    RETURNING g.app_id, g.name
""")

_LEFT_BY_RETIRED = text("""
    SELECT d.delivery_id, d.job_id, d.batch_id FROM consumer_groups g
    CROSS JOIN LATERAL (SELECT delivery_id, job_id, batch_id FROM deliveries
                        WHERE group_id = g.group_id AND consumer_id IS NULL LIMIT :limit) AS d
    WHERE g.retire_time IS NOT NULL LIMIT :limit
""")
_REMOVE = text("DELETE FROM deliveries WHERE delivery_id = ANY(CAST(:delivery_ids AS bigint[]))")
# Whoever looked for groups before this one was retired may still be writing it deliveries: they can be seen first.
_REMOVE_RETIRED = text("DELETE FROM consumer_groups WHERE retire_time < now() - interval '1 minute'")

# Many are not counted but estimated, by the statistics that Postgres keeps anyhow.
_COUNTS = text("""
    SELECT counted.n + CASE WHEN counted.n < :counted THEN 0
            ELSE greatest(pg_stat_get_live_tuples(CAST('deliveries' AS regclass)) - counted.n, 0) END AS waiting,
        (SELECT count(*) FROM consumers) AS consumers
    FROM (SELECT count(*) AS n FROM (SELECT FROM deliveries LIMIT :counted) AS first) AS counted
""")
_COUNTED = 10_000


class ConsumerLedger:
    """Groups and consumers in Postgres. Every method is one transaction; all raise errors.Unavailable without it."""

    def __init__(self, database: Database, lease_ttl: timedelta) -> None:
        self._database = database
        self.lease_ttl = lease_ttl

    @ledger_call
    async def open(self, consumer_id: UUID, app_id: str, name: str, workload: str) -> records.Consumer:
        """Opens a consumer, and its group when the app has none of this name.

        Raises errors.Unauthenticated when there is no such app, FailedPrecondition when the group has another workload
        or the app too many groups.
        """
        async with self._database.transaction() as connection:
            values = {"app_id": app_id, "name": name, "workload": workload}
            group = (await connection.execute(_OPEN_GROUP, values)).first()
            if group is None:
                raise errors.Unauthenticated(f"there is no app {app_id!r}", reason="UNKNOWN_APP")
            if group.workload != workload:
                raise _other_workload(name, group.workload)
            if await connection.scalar(_COUNT_GROUPS, {"app_id": app_id}) > MAX_GROUPS:
                raise errors.FailedPrecondition(
                    f"an app has at most {MAX_GROUPS} consumer groups", reason="TOO_MANY_GROUPS"
                )
            await connection.execute(
                _OPEN_CONSUMER, {"consumer_id": consumer_id, "group_id": group.group_id, "ttl": self.lease_ttl}
            )
        return records.Consumer(consumer_id, group.group_id, group.workload)

    @ledger_call
    async def advance(
        self, consumer_id: UUID, returned: Sequence[int], held: Sequence[int], limit: int
    ) -> records.Advance | None:
        """Renews the lease, takes `returned` back, and leases up to `limit` more; None when the lease has ended.

        Deliveries that the consumer has by the ledger and that are not `held` come along: an answer was lost.
        """
        async with self._database.transaction() as connection:
            me: dict[str, Any] = {"consumer_id": consumer_id}
            group = (await connection.execute(_RENEW, me | {"ttl": self.lease_ttl})).first()
            if group is None:
                return None
            if returned:
                await connection.execute(_GIVE_BACK, me | {"delivery_ids": list(returned)})
            if not group.filled or limit == 0:
                return records.Advance(group.group_id, (), filled=group.filled)
            await connection.execute(_CLAIM, me | {"group_id": group.group_id, "limit": limit})
            rows = (await connection.execute(_HOLDS, me | {"known": list(held)})).all()
            ended = await _jobs(connection, {r.job_id for r in rows if r.batch_id is None})
        found = tuple(records.Delivery(r.delivery_id, r.job_id, _batch(r), _ended(r, ended)) for r in rows)
        return records.Advance(group.group_id, found, filled=True)

    @ledger_call
    async def acknowledge(self, consumer_id: UUID, delivery_ids: Sequence[int]) -> list[records.Released]:
        """Settles deliveries that the consumer still holds; returns what no group waits for any more."""
        mine = {"consumer_id": consumer_id, "delivery_ids": list(delivery_ids)}
        async with self._database.transaction() as connection:
            job_ids = (await connection.scalars(_JOBS_OF, mine)).all()
            await _lock(connection, job_ids)
            settled = (await connection.scalars(_ACKNOWLEDGE, mine)).all()
            await offers.ready_ends(connection, job_ids)
            return await offers.release(connection, [batch_id for batch_id in settled if batch_id is not None])

    @ledger_call
    async def close(self, consumer_id: UUID) -> set[int]:
        """Ends a consumer; its deliveries are free at once. Returns its group, nothing when it had ended before."""
        async with self._database.transaction() as connection:
            return set((await connection.scalars(_CLOSE, {"consumer_id": consumer_id})).all())

    @ledger_call
    async def expire(self, limit: int) -> set[int]:
        """Ends up to `limit` consumers whose lease has run out; returns their groups."""
        async with self._database.transaction() as connection:
            return set((await connection.scalars(_EXPIRE, {"limit": limit})).all())

    @ledger_call
    async def unfilled(self, limit: int) -> list[int]:
        """Groups that have not been filled yet, whether anybody fills them or not."""
        async with self._database.peek() as connection:
            return list((await connection.scalars(_ALL_UNFILLED, {"limit": limit})).all())

    @ledger_call
    async def fill(self, group_id: int) -> bool:
        """Offers a new group the next jobs of what had finished before; True when that was all."""
        async with self._database.transaction() as connection:
            place = (await connection.execute(_UNFILLED, {"group_id": group_id})).mappings().first()
            if place is None:
                return True
            page = (await connection.execute(_NEXT_JOBS, dict(place) | {"limit": _FILL_JOBS})).all()
            if not page:
                await connection.execute(_ALL_FILLED, {"group_id": group_id})
                return True
            job_ids = [row.job_id for row in page]
            await _lock(connection, job_ids)
            await connection.execute(_FILL, {"group_id": group_id, "job_ids": job_ids, "workload": place["workload"]})
            await offers.ready_ends(connection, job_ids)
            last = {"create_time": page[-1].create_time, "job_id": page[-1].job_id}
            filled = len(page) < _FILL_JOBS
            await connection.execute(_FILLED, last | {"group_id": group_id, "filled": filled})
        return filled

    @ledger_call
    async def retire(self, retention: timedelta) -> list[str]:
        """Retires the groups that nobody has used for the retention; returns their names."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_RETIRE, {"retention": retention})).all()
        return [f"{row.app_id}/{row.name}" for row in rows]

    @ledger_call
    async def remove_retired(self, limit: int) -> tuple[int, list[records.Released]]:
        """Removes up to `limit` deliveries of retired groups, then the groups; returns how many, and what is free."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_LEFT_BY_RETIRED, {"limit": limit})).all()
            if not rows:
                await connection.execute(_REMOVE_RETIRED)
                return 0, []
            await _lock(connection, {row.job_id for row in rows})
            await connection.execute(_REMOVE, {"delivery_ids": [row.delivery_id for row in rows]})
            released = await offers.release(connection, [row.batch_id for row in rows if row.batch_id is not None])
        return len(rows), released

    @ledger_call
    async def counts(self) -> tuple[int, int]:
        """Deliveries that no group has acknowledged yet, about how many when they are many, and consumers."""
        async with self._database.peek() as connection:
            row = (await connection.execute(_COUNTS, {"counted": _COUNTED})).one()
        return row.waiting, row.consumers


async def _lock(connection: AsyncConnection, job_ids: Iterable[UUID]) -> None:
    await connection.execute(_LOCK_JOBS, {"job_ids": list(job_ids)})


async def _jobs(connection: AsyncConnection, job_ids: set[UUID]) -> dict[UUID, records.Job]:
    if not job_ids:
        return {}
    query = select(*job_ledger.JOB_COLUMNS).where(schema.jobs.c.job_id.in_(job_ids))
    return {row["job_id"]: job_ledger.job_of(row) for row in (await connection.execute(query)).mappings()}


def _batch(row: Any) -> records.Batch | None:
    if row.batch_id is None:
        return None
    reason = batches.FailureReason(row.failure_reason) if row.failure_reason else None
    state = batches.State(row.state)
    return records.Batch(row.first_item, row.item_count, state, row.attempt, reason, row.failure_message or "")


def _ended(row: Any, found: dict[UUID, records.Job]) -> records.Job | None:
    return found[row.job_id] if row.batch_id is None else None


def _other_workload(name: str, workload: str) -> errors.FailedPrecondition:
    what = f"workload {workload!r}" if workload else "all workloads"
    return errors.FailedPrecondition(
        f"group {name!r} was opened for {what}; use that, or another group",
        reason="GROUP_HAS_ANOTHER_WORKLOAD",
        metadata={"workload": workload},
    )
