"""Statements for operators: apps and their tokens, and what the whole system is doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, Table, func, select, text, tuple_, union_all, update
from sqlalchemy.dialects import postgresql

from podium_scheduler.adapters.sql import leadership, schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.domain import batches

_CREATE_TOKEN = text("""
    INSERT INTO app_tokens (token_id, app_id, token_sha256, description)
    SELECT :token_id, app_id, :token_sha256, :description FROM apps WHERE app_id = :app_id
    RETURNING token_id
""")

# Two small reads of partial indexes and one of the sessions; the payloads are never touched.
_QUEUES = text("""
    WITH waiting AS (
        SELECT workload, sum(batches_pending) AS pending, min(create_time) AS oldest
        FROM jobs WHERE feedable GROUP BY workload
    ), moving AS (
        SELECT j.workload, count(*) FILTER (WHERE b.state = 'QUEUED') AS queued,
            count(*) FILTER (WHERE b.state = 'LEASED') AS leased,
            min(j.create_time) FILTER (WHERE b.state = 'QUEUED') AS oldest
        FROM batches b JOIN jobs j ON j.job_id = b.job_id
        WHERE b.state = 'QUEUED' OR b.session_id IS NOT NULL GROUP BY j.workload
    ), offered AS (
        SELECT c.key AS workload, sum(CAST(c.value AS int)) AS credits,
            count(*) FILTER (WHERE CAST(c.value AS int) > 0) AS workers
        FROM sessions s CROSS JOIN LATERAL jsonb_each_text(s.credits) AS c WHERE s.state = 'OPEN' GROUP BY c.key
    )
    SELECT workload, CAST(coalesce(w.pending, 0) AS bigint) AS batches_pending,
        coalesce(m.queued, 0) AS batches_queued, coalesce(m.leased, 0) AS batches_leased,
        coalesce(now() - least(w.oldest, m.oldest), INTERVAL '0') AS oldest_age,
        CAST(coalesce(o.credits, 0) AS int) AS credits, CAST(coalesce(o.workers, 0) AS int) AS workers
    FROM waiting w FULL JOIN moving m USING (workload) FULL JOIN offered o USING (workload) ORDER BY workload
""")

# The row of the cluster names the last leader; whether it still leads, only the lock knows.
_STATS = text("""
    SELECT (SELECT count(*) FROM jobs WHERE state IN ('PENDING', 'RUNNING')) AS jobs_active,
        (SELECT CAST(coalesce(sum(item_count - items_succeeded - items_failed), 0) AS bigint)
         FROM jobs WHERE state IN ('PENDING', 'RUNNING')) AS items_waiting,
        (SELECT count(*) FROM sessions WHERE state <> 'ENDED' AND expire_time > now()) AS workers,
        coalesce((SELECT leader_replica_id FROM cluster WHERE EXISTS (
            SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
                AND classid = CAST(CAST(:lock_key AS bigint) >> 32 AS oid)
                AND objid = CAST(CAST(:lock_key AS bigint) & 4294967295 AS oid)
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )), '') AS leader_replica_id
""")


@dataclass(frozen=True, slots=True)
class App:
    """A tenant. `max_waiting_items` is 0 for no limit."""

    app_id: str
    weight: int
    max_waiting_items: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker with a session; `hello` and `status` are its own serialized frames, `status` empty before the first."""

    worker_id: UUID
    session_id: UUID
    replica_id: str
    hostname: str
    version: str
    pod_id: str
    hello: bytes
    status: bytes
    connect_time: datetime
    heartbeat_time: datetime
    quarantine_reason: str


@dataclass(frozen=True, slots=True)
class Queue:
    """One workload's queue. `oldest_age` is zero when nothing waits."""

    workload: str
    batches_pending: int
    batches_queued: int
    batches_leased: int
    oldest_age: timedelta
    credits: int
    workers: int


@dataclass(frozen=True, slots=True)
class Failure:
    """One batch that was given up."""

    batch_id: int
    app_id: str
    job_id: UUID
    workload: str
    first_item: int
    item_count: int
    reason: batches.FailureReason
    message: str
    attempt: int
    finish_time: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of the whole system. `leader_replica_id` is empty when no replica leads."""

    jobs_active: int
    items_waiting: int
    workers: int
    leader_replica_id: str


_APP = tuple(schema.apps.c[name] for name in App.__dataclass_fields__)
_WORKER = tuple(schema.sessions.c[name] for name in Worker.__dataclass_fields__)
_FAILED = batches.State.FAILED.value
_LIVE = (schema.sessions.c.state != "ENDED") & (schema.sessions.c.expire_time > func.now())


class OperatorLedger:
    """What operators read and write. Every method is one transaction; all raise errors.Unavailable while Postgres
    is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def create_app(self, app_id: str, weight: int, max_waiting_items: int) -> App | None:
        """Creates an app; None when the name is taken."""
        values = {"app_id": app_id, "weight": weight, "max_waiting_items": max_waiting_items}
        statement = postgresql.insert(schema.apps).values(values).on_conflict_do_nothing().returning(*_APP)
        async with self._database.transaction() as connection:
            row = (await connection.execute(statement)).first()
        return App(*row) if row else None

    @ledger_call
    async def update_app(self, app_id: str, weight: int, max_waiting_items: int) -> App | None:
        """Changes an app; None when there is none."""
        statement = (
            update(schema.apps)
            .where(schema.apps.c.app_id == app_id)
            .values(weight=weight, max_waiting_items=max_waiting_items)
            .returning(*_APP)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(statement)).first()
        return App(*row) if row else None

    @ledger_call
    async def list_apps(self, after: str, limit: int) -> list[App]:
        """Apps after a name, by name."""
        statement = select(*_APP).where(schema.apps.c.app_id > after).order_by(schema.apps.c.app_id).limit(limit)
        async with self._database.transaction() as connection:
            return [App(*row) for row in (await connection.execute(statement)).all()]

    @ledger_call
    async def create_token(self, token_id: UUID, app_id: str, token_sha256: bytes, description: str) -> bool:
        """Keeps the hash of a new token; False when there is no such app."""
        values = {"token_id": token_id, "app_id": app_id, "token_sha256": token_sha256, "description": description}
        async with self._database.transaction() as connection:
            return await connection.scalar(_CREATE_TOKEN, values) is not None

    @ledger_call
    async def revoke_token(self, token_id: UUID) -> bool:
        """Revokes a token, once or again; False when there is none."""
        table = schema.app_tokens
        statement = (
            update(table)
            .where(table.c.token_id == token_id)
            .values(revoke_time=func.coalesce(table.c.revoke_time, func.now()))
            .returning(table.c.token_id)
        )
        async with self._database.transaction() as connection:
            return await connection.scalar(statement) is not None

    @ledger_call
    async def list_workers(self, after: UUID | None, limit: int) -> list[Worker]:
        """Workers with a session, by worker_id."""
        statement = select(*_WORKER).where(_LIVE).order_by(schema.sessions.c.worker_id).limit(limit)
        if after is not None:
            statement = statement.where(schema.sessions.c.worker_id > after)
        async with self._database.transaction() as connection:
            return [Worker(*row) for row in (await connection.execute(statement)).all()]

    @ledger_call
    async def worker(self, worker_id: UUID) -> Worker | None:
        """A worker with a session."""
        statement = select(*_WORKER).where(_LIVE, schema.sessions.c.worker_id == worker_id)
        async with self._database.transaction() as connection:
            row = (await connection.execute(statement)).first()
        return Worker(*row) if row else None

    @ledger_call
    async def queues(self) -> list[Queue]:
        """Queues in which something waits or runs, or that a worker serves; by workload."""
        async with self._database.transaction() as connection:
            return [Queue(*row) for row in (await connection.execute(_QUEUES)).all()]

    @ledger_call
    async def failures(self, workload: str, before: tuple[datetime, int] | None, limit: int) -> list[Failure]:
        """Failed batches, newest first, older than `before` (finish_time, batch_id); '' for all workloads."""
        # Each table gives its newest from an index, so that a page costs a page, however much has failed.
        hot = _failures(schema.batches, workload, before, limit).where(schema.batches.c.state == _FAILED)
        both = union_all(
            hot.subquery().select(), _failures(schema.failed_batches, workload, before, limit).subquery().select()
        )
        statement = both.order_by(text("finish_time DESC, batch_id DESC")).limit(limit)
        async with self._database.transaction() as connection:
            return [_failure(row) for row in (await connection.execute(statement)).mappings()]

    @ledger_call
    async def stats(self) -> Stats:
        """Figures of the whole system."""
        async with self._database.transaction() as connection:
            return Stats(*(await connection.execute(_STATS, {"lock_key": leadership.LOCK_KEY})).one())


def _failures(table: Table, workload: str, before: tuple[datetime, int] | None, limit: int) -> Select[Any]:
    """Batches of a table, newest first, with their jobs' app and workload."""
    batch, jobs = table.c, schema.jobs.c
    statement = (
        select(
            batch.batch_id, jobs.app_id, batch.job_id, jobs.workload, batch.first_item, batch.item_count,
            batch.failure_reason, batch.failure_message, batch.attempt, batch.finish_time,
        )
        .join_from(table, schema.jobs)
        .order_by(batch.finish_time.desc(), batch.batch_id.desc())
        .limit(limit)
    )  # fmt: skip
    if workload:
        statement = statement.where(jobs.workload == workload)
    if before is not None:
        statement = statement.where(tuple_(batch.finish_time, batch.batch_id) < tuple_(*before))
    return statement


def _failure(row: RowMapping) -> Failure:
    values: dict[str, Any] = dict(row)
    reason, message = values.pop("failure_reason"), values.pop("failure_message")
    return Failure(**values, reason=batches.FailureReason(reason), message=message or "")
