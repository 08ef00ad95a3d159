"""Statements about whole jobs: admit, read, cancel, release, expire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, and_, bindparam, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql import item_claims, offers, schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import batches, jobs

_INSERT_JOB = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, labels, options,
                      traceparent, state, item_count, batch_count, batches_pending, feedable, deadline,
                      budget_micro_usd, dedupe_scope)
    VALUES (:job_id, :app_id, :request_id, :payload_digest, :workload, :modality, :priority, CAST(:labels AS jsonb),
            :options, :traceparent, 'PENDING', :item_count, :batch_count, :batch_count, true,
            now() + CAST(:window AS interval), :budget_micro_usd, :dedupe_scope)
    ON CONFLICT (app_id, request_id) DO NOTHING
    RETURNING job_id
""")

COLUMNS = ", ".join(records.Job.__dataclass_fields__)
"""Of a job that is read whole."""

# Its app, if that is there and has room for it.
APP_WITH_ROOM = """
        SELECT app_id FROM apps
        WHERE app_id = :app_id AND (max_waiting_items = 0 OR max_waiting_items >= :item_count + (
            SELECT coalesce(sum(item_count - items_succeeded - items_failed), 0)
            FROM jobs WHERE app_id = :app_id AND state IN ('PENDING', 'RUNNING')))"""

NEW_JOB = """job_id, app_id, request_id, payload_digest, workload, modality, priority, labels, options,
                          traceparent, item_count, batch_count, deadline, budget_micro_usd"""
NEW_JOB_VALUES = """CAST(:job_id AS uuid), app_id, CAST(:request_id AS uuid), CAST(:payload_digest AS bytea), :workload,
               CAST(:modality AS smallint), CAST(:priority AS smallint), CAST(:labels AS jsonb),
               CAST(:options AS bytea), :traceparent, CAST(:item_count AS int), CAST(:batch_count AS int),
               now() + CAST(:window AS interval), CAST(:budget_micro_usd AS bigint)"""
"""In the order of NEW_JOB, from `app`."""

# A job and its batches, if there is such an app, and if the request is new: nothing otherwise. Rows of batches refer to
# the job's, which is there when the foreign key is checked, at the end of the statement.
_ADMIT = f"""
    WITH app AS ({APP_WITH_ROOM}), job AS (
        INSERT INTO jobs ({NEW_JOB}, state, batches_pending, feedable)
        SELECT {NEW_JOB_VALUES}, 'PENDING', CAST(:batch_count AS int), true
        FROM app ON CONFLICT (app_id, request_id) DO NOTHING
        RETURNING {COLUMNS}
    ), cut AS (
        INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding)
        SELECT job.job_id, new.first_item, new.item_count, new.payload, new.payload_encoding
        FROM job CROSS JOIN unnest(CAST(:first_items AS int[]), CAST(:item_counts AS int[]), CAST(:payloads AS bytea[]),
            CAST(:encodings AS smallint[])) AS new(first_item, item_count, payload, payload_encoding)
    )
    SELECT {COLUMNS} FROM job
"""

_INSERT_BATCHES = text("""
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding)
    SELECT :job_id, first_item, item_count, payload, payload_encoding
    FROM unnest(CAST(:first_items AS int[]), CAST(:item_counts AS int[]), CAST(:payloads AS bytea[]),
                CAST(:encodings AS smallint[])) AS new(first_item, item_count, payload, payload_encoding)
""")

_WAITING_ITEMS = text("""
    SELECT coalesce(sum(item_count - items_succeeded - items_failed), 0)
    FROM jobs WHERE app_id = :app_id AND state IN ('PENDING', 'RUNNING')
""")

_END_OPEN_BATCHES = text("""
    WITH ended AS (
        SELECT batch_id, lease_token, session_id, item_count FROM batches
        WHERE job_id = :job_id AND state IN ('PENDING', 'QUEUED', 'LEASED')
        FOR UPDATE
    ), written AS (
        UPDATE batches SET state = :batch_state, failure_reason = :reason, failure_message = :message,
            finish_time = now(), lease_token = NULL, session_id = NULL
        FROM ended WHERE batches.batch_id = ended.batch_id
    )
    SELECT batch_id, lease_token, session_id, item_count FROM ended
""")

_END_JOB = text("""
    UPDATE jobs SET state = :job_state, batches_pending = 0, feedable = false,
        batches_finished = batches_finished + :batch_count, items_failed = items_failed + :item_count,
        finish_time = now(), expire_time = now() + CAST(:retention AS interval)
    WHERE job_id = :job_id
""")

_ACKNOWLEDGE = text("""
    UPDATE jobs SET acknowledged_item = greatest(acknowledged_item, least(:before_item, item_count))
    WHERE job_id = :job_id
""")

# What a consumer group waits for stays until the group has acknowledged it too.
_RELEASE_BATCHES = text("""
    WITH next AS (
        SELECT batch_id FROM batches
        WHERE job_id = :job_id AND first_item >= :from_item AND first_item + item_count <= :before_item
          AND state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED') AND payload IS NOT NULL
          AND NOT EXISTS (SELECT FROM deliveries d WHERE d.batch_id = batches.batch_id)
        ORDER BY first_item LIMIT :max_batches
    )
    UPDATE batches SET state = CASE state WHEN 'COMPLETED' THEN 'DELIVERED' ELSE state END, payload = NULL
    FROM next WHERE batches.batch_id = next.batch_id
""")

_LIST_BATCHES = text("""
    SELECT first_item, item_count, state, attempt, failure_reason, failure_message
    FROM batches WHERE job_id = :job_id AND first_item >= :from_item
    UNION ALL
    SELECT first_item, item_count, 'FAILED', attempt, failure_reason, failure_message
    FROM failed_batches WHERE job_id = :job_id AND first_item >= :from_item
    ORDER BY first_item LIMIT :limit
""")

# The first goes whatever its size. A job that was COMPLETED in time stays so: what is computed again of it was lost by
# us.
_DUE_DEADLINES = text("""
    SELECT job_id FROM (
        SELECT job_id, sum(unfinished) OVER (ORDER BY deadline, job_id) - unfinished AS ahead FROM (
            SELECT job_id, deadline, batch_count - batches_finished AS unfinished FROM jobs
            WHERE deadline <= now() AND deadline IS NOT NULL AND state IN ('PENDING', 'RUNNING') AND NOT offered
            ORDER BY deadline LIMIT :max_jobs) AS due) AS step
    WHERE ahead < :max_batches
""")

_APP_OF_TOKEN = text("SELECT app_id FROM app_tokens WHERE token_sha256 = :token_sha256 AND revoke_time IS NULL")

_PUT_TOKEN = text("""
    INSERT INTO app_tokens (token_id, app_id, token_sha256, description)
    VALUES (:token_id, :app_id, :token_sha256, :description) ON CONFLICT (token_sha256) DO NOTHING
""")

_PUT_APP = text("INSERT INTO apps (app_id) VALUES (:app_id) ON CONFLICT DO NOTHING")


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that was cancelled or expired: itself, and the leases that are void now."""

    job: records.Job
    revoked: tuple[records.HeldLease, ...]
    groups: frozenset[int] = frozenset()
    """Consumer groups that are told of it."""
    released: tuple[records.Released, ...] = ()
    """What was being computed again and nobody waits for any more."""


class JobLedger:
    """Jobs in Postgres. Every method is one transaction; all raise errors.Unavailable while the database is away."""

    def __init__(
        self,
        database: Database,
        news: offers.News = offers.untold,
        dedupe: item_claims.Terms | None = None,
    ) -> None:
        self._database = database
        self._news = news
        self._dedupe = dedupe or item_claims.Terms()

    @ledger_call
    async def app(self, app_id: str) -> records.App | None:
        """Reads an app."""
        columns = (schema.apps.c.app_id, schema.apps.c.weight, schema.apps.c.max_waiting_items)
        async with self._database.peek() as connection:
            row = (await connection.execute(select(*columns).where(schema.apps.c.app_id == app_id))).first()
        return records.App(*row) if row else None

    @ledger_call
    async def app_of_token(self, token_sha256: bytes) -> str | None:
        """The app whose unrevoked token has this hash."""
        async with self._database.peek() as connection:
            found: str | None = await connection.scalar(_APP_OF_TOKEN, {"token_sha256": token_sha256})
        return found

    @ledger_call
    async def put_app(self, app_id: str) -> None:
        """Creates an app with default quotas unless it exists."""
        async with self._database.transaction() as connection:
            await connection.execute(_PUT_APP, {"app_id": app_id})

    @ledger_call
    async def put_token(self, token_id: UUID, app_id: str, token_sha256: bytes, description: str) -> None:
        """Creates a token unless its hash is there."""
        async with self._database.transaction() as connection:
            await connection.execute(
                _PUT_TOKEN,
                {
                    "token_id": token_id,
                    "app_id": app_id,
                    "token_sha256": token_sha256,
                    "description": description,
                },
            )

    @ledger_call
    async def waiting_items(self, app_id: str) -> int:
        """Items of an app's active jobs that have no outcome."""
        async with self._database.peek() as connection:
            return int(await connection.scalar(_WAITING_ITEMS, {"app_id": app_id}) or 0)

    @ledger_call
    async def admit_at_once(self, job_id: UUID, new: records.NewJob) -> records.Job | None:
        """Writes a job and its batches, in one statement; None, and nothing is written, when the app is not there or
        its quota has no room for it, or when the request id has been used: `admit` tells which."""
        values = {**job_row(job_id, new), **batch_rows(job_id, new.batches)}
        async with self._database.stroke() as connection:
            row = (await connection.execute(_ADMIT_JOB, values)).mappings().first()
        return job_of(row) if row else None

    @ledger_call
    async def admit(self, job_id: UUID, new: records.NewJob) -> tuple[records.Job, bool]:
        """Writes a job and its batches; returns the job of this request id, and whether it was there already."""
        items = await item_claims.cut(new) if new.deduplicate else None
        async with self._database.transaction() as connection:
            created = await connection.scalar(_INSERT_JOB, job_row(job_id, new))
            if created is not None:
                await self._insert_batches(connection, job_id, new, items)
            where = and_(schema.jobs.c.app_id == new.app_id, schema.jobs.c.request_id == new.request_id)
            row = (await connection.execute(select(*JOB_COLUMNS).where(where))).mappings().one()
        return job_of(row), created is None

    async def _insert_batches(
        self, connection: AsyncConnection, job_id: UUID, new: records.NewJob, items: item_claims.Cut | None
    ) -> None:
        rows = batch_rows(job_id, new.batches)
        if items is not None:
            await item_claims.insert_batches(connection, job_id, new, items, rows, self._dedupe)
        else:
            await connection.execute(_INSERT_BATCHES, rows)

    @ledger_call
    async def job(self, app_id: str, job_id: UUID) -> records.Job | None:
        """Reads a job of an app."""
        async with self._database.peek() as connection:
            return await _read(connection, app_id, job_id)

    @ledger_call
    async def job_of_request(self, app_id: str, request_id: UUID) -> records.Job | None:
        """Reads the job of an app's request id."""
        where = and_(schema.jobs.c.app_id == app_id, schema.jobs.c.request_id == request_id)
        async with self._database.peek() as connection:
            row = (await connection.execute(select(*JOB_COLUMNS).where(where))).mappings().first()
        return job_of(row) if row else None

    @ledger_call
    async def list_jobs(
        self, app_id: str, chosen: records.JobFilter, before: tuple[datetime, UUID] | None, limit: int
    ) -> list[records.Job]:
        """Jobs of an app, newest first, older than `before` (create_time, job_id)."""
        table = schema.jobs.c
        query = select(*JOB_COLUMNS).where(table.app_id == app_id)
        if chosen.states:
            query = query.where(table.state.in_([s.value for s in chosen.states]))
        if chosen.labels:
            query = query.where(table.labels.contains(dict(chosen.labels)))
        if chosen.workload:
            query = query.where(table.workload == chosen.workload)
        if before:
            query = query.where(tuple_(table.create_time, table.job_id) < tuple_(*before))
        query = query.order_by(table.create_time.desc(), table.job_id.desc()).limit(limit)
        async with self._database.peek() as connection:
            return [job_of(row) for row in (await connection.execute(query)).mappings()]

    @ledger_call
    async def list_batches(self, job_id: UUID, from_item: int, limit: int) -> list[records.Batch]:
        """Batches of a job from an item on, by first_item. Of an archived job those that failed are left."""
        values = {"job_id": job_id, "from_item": from_item, "limit": limit}
        async with self._database.peek() as connection:
            rows = (await connection.execute(_LIST_BATCHES, values)).all()
        return [
            records.Batch(
                r.first_item,
                r.item_count,
                batches.State(r.state),
                r.attempt,
                batches.FailureReason(r.failure_reason) if r.failure_reason else None,
                r.failure_message or "",
            )
            for r in rows
        ]

    @ledger_call
    async def cancel(self, app_id: str, job_id: UUID, retention: timedelta) -> Ended | None:
        """Cancels what is left of an active job; another job is returned as it is, an unknown one as None."""
        async with self._database.transaction() as connection:
            ended = await _end(
                connection, app_id, job_id, retention, jobs.State.CANCELLED, batches.FailureReason.CANCELLED
            )
        if ended is not None:
            self._news(set(ended.groups), ended.released)
        return ended

    @ledger_call
    async def expire_due(self, retention: timedelta, *, max_jobs: int, max_batches: int) -> list[Ended]:
        """Expires what is left of jobs whose deadline has passed, up to a number of them and about one of batches."""
        ended: list[Ended] = []
        bounds = {"max_jobs": max_jobs, "max_batches": max_batches}
        async with self._database.transaction() as connection:
            due = (await connection.scalars(_DUE_DEADLINES, bounds)).all()
            for job_id in sorted(due):
                one = await _end(
                    connection,
                    None,
                    job_id,
                    retention,
                    jobs.State.EXPIRED,
                    batches.FailureReason.DEADLINE_EXCEEDED,
                )
                if one is not None:
                    ended.append(one)
        self._news({group for one in ended for group in one.groups}, [r for one in ended for r in one.released])
        return ended

    @ledger_call
    async def release(
        self, app_id: str, job_id: UUID, before_item: int, max_batches: int
    ) -> tuple[records.Job | None, bool]:
        """Marks the next finished batches that end at or before an item as delivered and drops their payloads.

        What of it is being computed again, because it was lost after it was read, is released when it is finished.
        Returns the job, and whether there may be more of them than `max_batches`. Changes nothing once the results have
        expired: then the batches are leaving the ledger.
        """
        async with self._database.transaction() as connection:
            job = await _read(connection, app_id, job_id, lock=True)
            if job is None or before_item <= job.items_released or job.results_expired:
                return job, False
            place = {"job_id": job_id, "from_item": job.items_released, "before_item": before_item}
            step = await connection.execute(_RELEASE_BATCHES, {**place, "max_batches": max_batches})
            more = step.rowcount == max_batches
            if not more:
                # With the last step: what finished before it has gone, what finishes after it sees this.
                await connection.execute(_ACKNOWLEDGE, place)
            await connection.execute(offers.RELEASE_JOBS, {"job_ids": [job_id]})
            return await _read(connection, app_id, job_id), more


JOB_COLUMNS = tuple(schema.jobs.c[name] for name in records.Job.__dataclass_fields__)
_ADMIT_JOB = text(_ADMIT).columns(*JOB_COLUMNS)


def _reading(*, of_app: bool, lock: bool) -> Select[Any]:
    query = select(*JOB_COLUMNS).where(schema.jobs.c.job_id == bindparam("wanted_job"))
    if of_app:
        query = query.where(schema.jobs.c.app_id == bindparam("wanted_app"))
    return query.with_for_update(key_share=True) if lock else query


# Made once: putting one together, and finding its compiled form by what it is made of, costs as much as running it.
_READS = {(of_app, lock): _reading(of_app=of_app, lock=lock) for of_app in (False, True) for lock in (False, True)}


def job_of(row: RowMapping) -> records.Job:
    """The job of a row with JOB_COLUMNS, and maybe others."""
    values: dict[str, Any] = {name: row[name] for name in records.Job.__dataclass_fields__}
    return records.Job(**{**values, "state": jobs.State(values["state"])})


async def _read(
    connection: AsyncConnection, app_id: str | None, job_id: UUID, *, lock: bool = False
) -> records.Job | None:
    values = {"wanted_job": job_id} if app_id is None else {"wanted_job": job_id, "wanted_app": app_id}
    row = (await connection.execute(_READS[app_id is not None, lock], values)).mappings().first()
    return job_of(row) if row else None


async def _end(
    connection: AsyncConnection,
    app_id: str | None,
    job_id: UUID,
    retention: timedelta,
    state: jobs.State,
    reason: batches.FailureReason,
) -> Ended | None:
    job = await _read(connection, app_id, job_id, lock=True)
    if job is None or job.state not in jobs.ACTIVE:
        return Ended(job, ()) if job else None
    message = "the job was cancelled" if state is jobs.State.CANCELLED else "the job's completion window has passed"
    rows = (
        await connection.execute(
            _END_OPEN_BATCHES,
            {"job_id": job_id, "batch_state": state.value, "reason": reason.value, "message": message},
        )
    ).all()
    counts = {"batch_count": len(rows), "item_count": sum(r.item_count for r in rows)}
    await connection.execute(_END_JOB, {"job_id": job_id, "job_state": state.value, "retention": retention, **counts})
    batch_ids = [r.batch_id for r in rows]
    groups = await offers.offer(connection, [job_id], batch_ids)
    released = await offers.release(connection, batch_ids)
    revoked = tuple(
        records.HeldLease(r.batch_id, r.lease_token, 0, job_id, r.session_id) for r in rows if r.lease_token
    )
    after = await _read(connection, app_id, job_id)
    return Ended(after or job, revoked, frozenset(groups), tuple(released))


def job_row(job_id: UUID, new: records.NewJob) -> Mapping[str, object]:
    """What the statements that admit need of a job."""
    return {
        "job_id": job_id,
        "app_id": new.app_id,
        "request_id": new.request_id,
        "payload_digest": new.payload_digest,
        "workload": new.workload,
        "modality": new.modality,
        "priority": new.priority,
        "labels": json.dumps(dict(new.labels)),
        "options": new.options,
        "traceparent": new.traceparent,
        "item_count": new.item_count,
        "batch_count": len(new.batches),
        "window": new.completion_window,
        "budget_micro_usd": new.budget_micro_usd,
        "dedupe_scope": new.scope if new.deduplicate else None,
    }


def batch_rows(job_id: UUID, new: Sequence[records.NewBatch]) -> Mapping[str, object]:
    """What they need of its batches."""
    return {
        "job_id": job_id,
        "first_items": [b.first_item for b in new],
        "item_counts": [b.item_count for b in new],
        "payloads": [b.payload for b in new],
        "encodings": [b.payload_encoding for b in new],
    }
