"""Statements about batches: feed, claim, complete, fail, rescue, reconcile.

Each write after a claim is guarded by batch id and lease token; no row means that the writer is stale. Jobs are
locked before batches, in job_id order (see `schema.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql import finishing, job_counters, leadership, offers
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import batches, fairness, room

# Columns of a job: how many items one of its batches has, and how many are in Redis or on their way there.
HOLDS = """greatest(1, item_count / batch_count) AS batch_items,
                   items_succeeded + items_failed - items_released
                   + (batch_count - batches_finished - batches_pending) * greatest(1, item_count / batch_count)
                   AS held_items"""

# A few jobs of each (app, priority), oldest first, by two index descents each: the cost does not grow with the backlog.
# Those that can be given nothing now are passed over: all that waits is in backoff, or they hold too much already.
_CANDIDATES = text(f"""
    SELECT j.job_id, j.app_id, j.priority, now() - j.create_time AS age, j.batches_pending, j.batch_items, a.weight,
           CAST(ceil(j.held_items / CAST(j.batch_items AS float8)) AS int) AS held_batches, j.gap
    FROM apps a
    CROSS JOIN generate_series(1, 5) AS level(priority)
    CROSS JOIN LATERAL (
        SELECT oldest.*, head.queue_time IS NOT NULL AS gap FROM (
            SELECT job_id, app_id, jobs.priority, create_time, batches_pending, {HOLDS}
            FROM jobs
            WHERE feedable AND workload = :workload AND app_id = a.app_id AND jobs.priority = level.priority
            ORDER BY create_time LIMIT :looked_at) AS oldest
        CROSS JOIN LATERAL (
            SELECT queue_time FROM batches
            WHERE job_id = oldest.job_id AND state = 'PENDING' AND not_before <= now()
            ORDER BY first_item LIMIT 1) AS head
        WHERE NOT :small OR head.queue_time IS NOT NULL
              OR oldest.held_items <= (:small_batches - 1) * oldest.batch_items
        ORDER BY oldest.create_time LIMIT :per_level) AS j
""")
_LOOKED_AT = 64

# All of it in one statement. What it sees may be older than its locks on the jobs: then Postgres looks at each row that
# it is about to change once more, so that nothing is fed that is not PENDING any more, and the counters are the newest.
_FEED = text(f"""
    WITH {leadership.HELD_TERM}, turns(job_id, batches) AS (
        SELECT * FROM unnest(CAST(:job_ids AS uuid[]), CAST(:counts AS int[]))
    ), locked AS MATERIALIZED (
        SELECT job_id FROM jobs
        WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND feedable AND EXISTS (SELECT FROM term)
        ORDER BY job_id FOR NO KEY UPDATE
    ), picked AS MATERIALIZED (
        SELECT b.batch_id FROM turns JOIN locked ON locked.job_id = turns.job_id CROSS JOIN LATERAL (
            SELECT batch_id FROM batches
            WHERE job_id = turns.job_id AND state = 'PENDING' AND not_before <= now()
            ORDER BY first_item LIMIT turns.batches FOR UPDATE SKIP LOCKED) AS b
    ), fed AS (
        UPDATE batches SET state = 'QUEUED', queue_time = now()
        FROM picked WHERE batches.batch_id = picked.batch_id
        RETURNING batches.batch_id, batches.job_id, batches.first_item
    ), counted AS (
        UPDATE jobs SET batches_pending = jobs.batches_pending - f.batches,
            feedable = jobs.batches_pending - f.batches > 0
        FROM (SELECT job_id, count(*) AS batches FROM fed GROUP BY job_id) AS f WHERE jobs.job_id = f.job_id
    )
    SELECT EXISTS (SELECT FROM term) AS leads, fed.* FROM (VALUES (1)) AS always(one) LEFT JOIN fed ON true
""")

# What records.Leased has, in its order, of a batch `b` and its job `j`.
LEASED = """b.batch_id, b.lease_token, b.session_id, b.attempt, b.job_id, j.workload, j.modality, b.first_item,
        b.item_count, b.payload, b.payload_encoding, b.payload_offset, j.options, j.deadline, j.traceparent,
        j.state = 'PENDING' AS job_starts,
        CAST(extract(epoch FROM now() - greatest(j.create_time, b.not_before)) AS float8) AS waited_s,
        j.dedupe_scope, b.identities"""

_CLAIM = text(f"""
    WITH claims(batch_id, lease_token, session_id) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[]), CAST(:session_ids AS uuid[]))
    )
    UPDATE batches b
    SET state = 'LEASED', attempt = b.attempt + CAST(b.state = 'QUEUED' AS int), lease_token = c.lease_token,
        session_id = c.session_id, lease_time = now()
    FROM claims c JOIN sessions s ON s.session_id = c.session_id AND s.state = 'OPEN', jobs j
    WHERE b.batch_id = c.batch_id AND (b.state = 'QUEUED' OR b.lease_token = c.lease_token) AND j.job_id = b.job_id
    RETURNING {LEASED}
""")

_START_JOBS = text("""
    WITH starting AS MATERIALIZED (
        SELECT job_id FROM jobs WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND state = 'PENDING'
        ORDER BY job_id FOR NO KEY UPDATE
    )
    UPDATE jobs SET state = 'RUNNING', start_time = now()
    FROM starting WHERE jobs.job_id = starting.job_id AND jobs.state = 'PENDING'
""")

# The jobs first, and all of them: counting reads every row of `locked`. What is seen of the batches may be older than
# that; then Postgres looks at each row that it is about to change once more.
_COMPLETE = text("""
    WITH locked AS MATERIALIZED (
        SELECT job_id FROM jobs WHERE job_id = ANY(CAST(:job_ids AS uuid[])) ORDER BY job_id FOR NO KEY UPDATE
    ), done(batch_id, lease_token, items_failed, items_truncated) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[]), CAST(:failed AS int[]),
                             CAST(:truncated AS int[]))
    )
    UPDATE batches b
    SET state = 'COMPLETED', lease_token = NULL, session_id = NULL, finish_time = now(),
        items_succeeded = b.item_count - d.items_failed, items_failed = d.items_failed,
        items_truncated = d.items_truncated
    FROM done d
    WHERE b.batch_id = d.batch_id AND b.state = 'LEASED' AND b.lease_token = d.lease_token
      AND (SELECT count(*) FROM locked) > 0
    RETURNING b.batch_id, b.job_id, b.first_item + b.item_count AS end_item, b.items_succeeded, b.items_failed,
        b.items_truncated, b.offered
""")

_WITH_RESULTS = text("""
    SELECT batch_id FROM batches
    WHERE batch_id = ANY(CAST(:batch_ids AS bigint[])) AND state IN ('COMPLETED', 'DELIVERED')
""")

_RETRY = text("""
    WITH retries(batch_id, lease_token, delay, counts) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[]), CAST(:delays AS interval[]),
                             CAST(:counts AS int[]))
    )
    UPDATE batches b
    SET state = 'PENDING', attempt = b.attempt - 1 + r.counts, not_before = now() + r.delay, lease_token = NULL,
        session_id = NULL
    FROM retries r
    WHERE b.batch_id = r.batch_id AND b.state = 'LEASED' AND b.lease_token = r.lease_token
    RETURNING b.batch_id, b.job_id
""")

# A half is the same payload with an item range. The bytes are copied, so each half lives and is dropped by itself.
_SPLIT = text("""
    WITH splits(batch_id, lease_token, first, second) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[]), CAST(:firsts AS int[]),
                             CAST(:seconds AS int[]))
    ), kept AS (
        UPDATE batches b
        SET state = 'PENDING', item_count = s.first, attempt = 0, not_before = now(), lease_token = NULL,
            session_id = NULL
        FROM splits s
        WHERE b.batch_id = s.batch_id AND b.state = 'LEASED' AND b.lease_token = s.lease_token
          AND b.item_count = s.first + s.second
        RETURNING b.batch_id, b.job_id, b.first_item, b.payload, b.payload_encoding, b.payload_offset, b.offered,
            b.identities, s.first, s.second
    ), added AS (
        INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding, payload_offset, offered,
                             identities)
        SELECT job_id, first_item + first, second, payload, payload_encoding, payload_offset + first, offered,
            identities
        FROM kept
        RETURNING batch_id, job_id, first_item
    )
    SELECT k.batch_id, k.job_id, k.offered, a.batch_id AS second_id
    FROM kept k JOIN added a ON a.job_id = k.job_id AND a.first_item = k.first_item + k.first
""")

_GIVE_UP = text("""
    WITH given_up(batch_id, lease_token, reason, message) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[]), CAST(:reasons AS text[]),
                             CAST(:messages AS text[]))
    )
    UPDATE batches b
    SET state = 'FAILED', failure_reason = g.reason, failure_message = g.message, finish_time = now(),
        lease_token = NULL, session_id = NULL
    FROM given_up g
    WHERE b.batch_id = g.batch_id AND b.state = 'LEASED' AND b.lease_token = g.lease_token
    RETURNING b.batch_id, b.job_id, b.item_count
""")

_WAITING_JOBS = text("""
    SELECT job_id FROM jobs
    WHERE workload = :workload AND state IN ('PENDING', 'RUNNING')
      AND EXISTS (SELECT FROM batches b WHERE b.job_id = jobs.job_id AND b.state IN ('PENDING', 'QUEUED'))
    ORDER BY job_id LIMIT :max_jobs FOR NO KEY UPDATE
""")

_GIVE_UP_WAITING = text("""
    WITH waiting AS (
        SELECT batch_id, state FROM batches
        WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND state IN ('PENDING', 'QUEUED')
        LIMIT :max_batches FOR UPDATE
    )
    UPDATE batches b
    SET state = 'FAILED', failure_reason = 'MODEL_UNAVAILABLE', failure_message = :message, finish_time = now()
    FROM waiting w WHERE b.batch_id = w.batch_id
    RETURNING b.batch_id, b.job_id, b.item_count, w.state = 'PENDING' AS was_pending
""")

_LEASES_OF = text("""
    SELECT batch_id, lease_token, attempt, job_id, session_id FROM batches
    WHERE state = 'LEASED' AND session_id = ANY(CAST(:session_ids AS uuid[])) LIMIT :limit
""")

_STILL_LEASED = text("""
    SELECT b.batch_id FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[])) AS l(batch_id, lease_token)
    JOIN batches b ON b.batch_id = l.batch_id AND b.lease_token = l.lease_token AND b.state = 'LEASED'
""")

_QUEUED_SINCE = text("""
    SELECT b.batch_id, j.workload FROM batches b JOIN jobs j ON j.job_id = b.job_id
    WHERE b.state = 'QUEUED' AND b.queue_time < now() - CAST(:age AS interval) ORDER BY b.queue_time LIMIT :limit
""")

_NOT_QUEUED = text("""
    SELECT r.batch_id FROM unnest(CAST(:batch_ids AS bigint[])) AS r(batch_id)
    WHERE NOT EXISTS (SELECT FROM batches b WHERE b.batch_id = r.batch_id AND b.state = 'QUEUED')
""")

_UNQUEUE = text("""
    UPDATE batches SET state = 'PENDING' WHERE batch_id = ANY(CAST(:batch_ids AS bigint[])) AND state = 'QUEUED'
    RETURNING batch_id, job_id
""")

_JOBS_OF = text("SELECT DISTINCT job_id FROM batches WHERE batch_id = ANY(CAST(:batch_ids AS bigint[]))")

_JOBS_WITH_RESULTS = text("""
    SELECT job_id FROM jobs
    WHERE NOT archived AND job_id > :after AND batches_finished > 0 AND items_released < item_count
      AND NOT results_expired
    ORDER BY job_id LIMIT :limit
""")

_COMPLETED_OF = text("""
    SELECT batch_id, first_item FROM batches WHERE job_id = :job_id AND state = 'COMPLETED' ORDER BY first_item
""")

_RECOMPUTE = text("""
    WITH lost AS (
        SELECT batch_id, items_succeeded, items_failed, items_truncated FROM batches
        WHERE batch_id = ANY(CAST(:batch_ids AS bigint[])) AND state = 'COMPLETED' FOR UPDATE
    )
    UPDATE batches b
    SET state = 'PENDING', finish_time = NULL, not_before = now(), attempt = 0, items_succeeded = 0, items_failed = 0,
        items_truncated = 0, queue_time = CASE WHEN NOT :shed THEN b.queue_time END,
        offered = true
    FROM lost, jobs j
    WHERE b.batch_id = lost.batch_id AND j.job_id = b.job_id AND j.state IN ('PENDING', 'RUNNING', 'COMPLETED')
      AND NOT j.results_expired
    RETURNING b.batch_id, b.job_id, lost.items_succeeded, lost.items_failed, lost.items_truncated
""")

# Nothing of an ended job is computed again: what its reader would wait for has to fail.
_LOSE = text("""
    WITH lost AS (
        SELECT batch_id, items_succeeded, items_failed, items_truncated FROM batches
        WHERE batch_id = ANY(CAST(:batch_ids AS bigint[])) AND state = 'COMPLETED' FOR UPDATE
    )
    UPDATE batches b
    SET state = j.state, failure_reason = CASE j.state WHEN 'CANCELLED' THEN 'CANCELLED' ELSE 'DEADLINE_EXCEEDED' END,
        failure_message = 'the job had ended when this result was lost', items_succeeded = 0, items_failed = 0,
        items_truncated = 0
    FROM lost, jobs j
    WHERE b.batch_id = lost.batch_id AND j.job_id = b.job_id AND j.state IN ('CANCELLED', 'EXPIRED')
      AND NOT j.results_expired
    RETURNING b.job_id, b.item_count, lost.items_succeeded, lost.items_failed, lost.items_truncated
""")

_DEPTHS = text("""
    SELECT workload, CAST(sum(batches_pending) AS bigint) AS batches_pending, min(create_time) AS oldest
    FROM jobs WHERE feedable GROUP BY workload
""")

# Whatever its batches are doing: a job is active until the last of them has its outcome.
_WORK = text("""
    SELECT workload, CAST(sum(item_count - items_succeeded - items_failed) AS bigint) AS items,
        CAST(extract(epoch FROM now() - min(create_time)) AS float8) AS oldest_age_s
    FROM jobs WHERE state IN ('PENDING', 'RUNNING') GROUP BY workload ORDER BY workload
""")

# After WITH RECURSIVE: the workloads of which something waits, by name. One index descent each, however many jobs wait.
WAITING = """found(workload) AS (
        (SELECT workload FROM jobs WHERE feedable ORDER BY workload LIMIT 1)
        UNION ALL
        SELECT (SELECT jobs.workload FROM jobs WHERE feedable AND jobs.workload > found.workload
                ORDER BY jobs.workload LIMIT 1)
        FROM found WHERE found.workload IS NOT NULL
    ), waiting AS MATERIALIZED (SELECT workload FROM found WHERE workload IS NOT NULL)"""
_WAITING_WORKLOADS = text(f"WITH RECURSIVE {WAITING} SELECT workload FROM waiting")

# Of jobs only those that are active: counting the others would read all of history again and again.
_JOB_COUNTS = text("""
    SELECT count(*) FILTER (WHERE state = 'PENDING') AS pending, count(*) FILTER (WHERE state = 'RUNNING') AS running
    FROM jobs WHERE state IN ('PENDING', 'RUNNING')
""")
# Only a LEASED batch has a session, and this is how the partial index on it says so.
_OPEN_BATCH_COUNTS = text("""
    SELECT 'QUEUED' AS state, count(*) AS n FROM batches WHERE state = 'QUEUED'
    UNION ALL SELECT 'LEASED', count(*) FROM batches WHERE session_id IS NOT NULL
    UNION ALL SELECT 'PENDING', coalesce(sum(batches_pending), 0) FROM jobs WHERE feedable
""")

_MAX_WORDS = 2_000


class BatchLedger:
    """Batches in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database, retention: timedelta, news: offers.News = offers.untold) -> None:
        self._database = database
        self._retention = retention
        self._news = news

    @ledger_call
    async def depths(self) -> list[records.WorkloadDepth]:
        """What waits in the ledger, by workload; workloads with nothing waiting are left out."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_DEPTHS)).all()
        return [records.WorkloadDepth(r.workload, r.batches_pending, r.oldest) for r in rows]

    @ledger_call
    async def work(self) -> list[records.WorkloadWork]:
        """What has no outcome yet, by workload: waiting, queued or leased."""
        async with self._database.peek() as connection:
            return [records.WorkloadWork(*row) for row in (await connection.execute(_WORK)).all()]

    @ledger_call
    async def waiting_workloads(self) -> list[str]:
        """Workloads of which something waits in the ledger, by name."""
        async with self._database.peek() as connection:
            return list((await connection.scalars(_WAITING_WORKLOADS)).all())

    @ledger_call
    async def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Active jobs by state, and unfinished batches by state."""
        async with self._database.peek() as connection:
            jobs = (await connection.execute(_JOB_COUNTS)).one()
            open_batches = (await connection.execute(_OPEN_BATCH_COUNTS)).all()
        return {"PENDING": jobs.pending, "RUNNING": jobs.running}, {r.state: int(r.n) for r in open_batches}

    @ledger_call
    async def candidates(
        self, workload: str, per_level: int, *, small: bool = False
    ) -> tuple[list[fairness.Candidate], dict[str, int]]:
        """The oldest jobs of each app and priority that something can be fed of, and the apps' weights.

        `small`: only those that may use the reserve (see domain.room).
        """
        values = {
            "workload": workload,
            "per_level": per_level,
            "looked_at": _LOOKED_AT,
            "small": small,
            "small_batches": room.SMALL_BATCHES,
        }
        async with self._database.peek() as connection:
            rows = (await connection.execute(_CANDIDATES, values)).all()
        found = [
            fairness.Candidate(
                str(r.job_id), r.app_id, r.priority, r.age, r.batches_pending, r.batch_items, r.held_batches, r.gap
            )
            for r in rows
        ]
        return found, {r.app_id: r.weight for r in rows}

    @ledger_call
    async def feed(self, turns: Mapping[UUID, int]) -> dict[UUID, list[int]]:
        """Moves up to the given number of each job's next batches to QUEUED; returns their ids in order, by job."""
        values = {"job_ids": list(turns), "counts": list(turns.values())}
        rows = [row for row in await leadership.write(self._database, _FEED, values) if row.batch_id is not None]
        fed: dict[UUID, list[int]] = defaultdict(list)
        for row in sorted(rows, key=lambda r: r.first_item):
            fed[row.job_id].append(row.batch_id)
        return dict(fed)

    @ledger_call
    async def claim(self, claims: Sequence[records.Claim]) -> list[records.Leased]:
        """Writes the leases of those batches that are still QUEUED, for sessions that are still open.

        Once or again: a claim whose answer was lost may be repeated.
        """
        values = {
            "batch_ids": [c.batch_id for c in claims],
            "tokens": [c.lease_token for c in claims],
            "session_ids": [c.session_id for c in claims],
        }
        async with self._database.stroke() as connection:
            rows = (await connection.execute(_CLAIM, values)).all()
        return [records.Leased(*row) for row in rows]

    @ledger_call
    async def start_jobs(self, job_ids: Iterable[UUID]) -> None:
        """Moves jobs whose first batch was leased to RUNNING."""
        async with self._database.stroke() as connection:
            await connection.execute(_START_JOBS, {"job_ids": list(job_ids)})

    @ledger_call
    async def complete(self, completions: Sequence[records.Completion]) -> set[int]:
        """Completes the batches whose lease is still the given one; returns their ids."""
        values = {
            "job_ids": list({c.job_id for c in completions}),
            "batch_ids": [c.batch_id for c in completions],
            "tokens": [c.lease_token for c in completions],
            "failed": [c.items_failed for c in completions],
            "truncated": [c.items_truncated for c in completions],
        }
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_COMPLETE, values)).all()
            await finishing.count_deduplicated(connection, rows, completions)
            groups, released = await finishing.finish(connection, rows, self._retention)
        self._news(groups, released)
        return {row.batch_id for row in rows}

    @ledger_call
    async def with_results(self, batch_ids: Sequence[int]) -> set[int]:
        """Those of the batches whose results are durable, whoever computed them."""
        async with self._database.peek() as connection:
            return set((await connection.scalars(_WITH_RESULTS, {"batch_ids": list(batch_ids)})).all())

    @ledger_call
    async def fail(self, failures: Sequence[records.Failure]) -> set[int]:
        """Retries, splits or gives up the batches whose lease is still the given one; returns their ids."""
        async with self._database.transaction() as connection:
            await job_counters.lock(connection, {f.job_id for f in failures})
            deltas: dict[UUID, job_counters.Delta] = defaultdict(job_counters.Delta)
            retried = [(f, f.outcome) for f in failures if isinstance(f.outcome, batches.Retry)]
            rows: list[Any] = []
            if retried:
                rows += (await connection.execute(_RETRY, _retry_values(retried))).all()
                for row in rows:
                    deltas[row.job_id].pending += 1
            split = [(f, f.outcome) for f in failures if isinstance(f.outcome, batches.Split)]
            if split:
                halved = (await connection.execute(_SPLIT, _split_values(split))).all()
                await offers.offer_halves(connection, [(r.batch_id, r.second_id) for r in halved if r.offered])
                for row in halved:
                    deltas[row.job_id].added += 1
                    deltas[row.job_id].pending += 2
                rows += halved
            given_up = [(f, f.outcome) for f in failures if isinstance(f.outcome, batches.GiveUp)]
            ended: Sequence[Any] = ()
            if given_up:
                ended = (await connection.execute(_GIVE_UP, _give_up_values(given_up))).all()
                for row in ended:
                    deltas[row.job_id].finished += 1
                    deltas[row.job_id].failed += row.item_count
                rows += ended
            await self._apply(connection, deltas)
            groups = await offers.offer(connection, {r.job_id for r in ended}, [r.batch_id for r in ended])
            released = await offers.release(connection, [r.batch_id for r in ended])
        self._news(groups, released)
        return {row.batch_id for row in rows}

    @ledger_call
    async def give_up_waiting(self, workload: str, message: str, *, max_jobs: int, max_batches: int) -> list[UUID]:
        """Fails the next waiting batches of a workload that cannot be loaded; returns their jobs, none at the end."""
        async with self._database.transaction() as connection:
            values = {"workload": _storable(workload), "max_jobs": max_jobs}
            job_ids = list((await connection.scalars(_WAITING_JOBS, values)).all())
            waiting = {"job_ids": job_ids, "max_batches": max_batches, "message": _storable(message)}
            rows = (await connection.execute(_GIVE_UP_WAITING, waiting)).all()
            deltas: dict[UUID, job_counters.Delta] = defaultdict(job_counters.Delta)
            for row in rows:
                delta = deltas[row.job_id]
                delta.pending -= int(row.was_pending)
                delta.finished += 1
                delta.failed += row.item_count
            await self._apply(connection, deltas)
            groups = await offers.offer(connection, deltas, [row.batch_id for row in rows])
            released = await offers.release(connection, [row.batch_id for row in rows])
        self._news(groups, released)
        return list(deltas)

    @ledger_call
    async def leases_of(self, session_ids: Sequence[UUID], limit: int) -> list[records.HeldLease]:
        """Leases that these sessions hold."""
        values = {"session_ids": list(session_ids), "limit": limit}
        async with self._database.peek() as connection:
            return [records.HeldLease(*row) for row in (await connection.execute(_LEASES_OF, values)).all()]

    @ledger_call
    async def still_leased(self, leases: Sequence[records.LeaseKey]) -> set[int]:
        """Ids of those batches whose lease is still the given one."""
        values = {"batch_ids": [k.batch_id for k in leases], "tokens": [k.lease_token for k in leases]}
        async with self._database.peek() as connection:
            return set((await connection.scalars(_STILL_LEASED, values)).all())

    @ledger_call
    async def queued_since(self, age: timedelta, limit: int) -> dict[int, str]:
        """Batches that have been QUEUED for longer than `age`, with their workloads."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_QUEUED_SINCE, {"age": age, "limit": limit})).all()
        return {row.batch_id: row.workload for row in rows}

    @ledger_call
    async def not_queued(self, batch_ids: Sequence[int]) -> set[int]:
        """Those of the batches that are not QUEUED."""
        async with self._database.peek() as connection:
            return set((await connection.scalars(_NOT_QUEUED, {"batch_ids": list(batch_ids)})).all())

    @ledger_call
    async def unqueue(self, batch_ids: Sequence[int]) -> int:
        """Moves batches whose entry is gone from Redis back to PENDING; returns how many."""
        async with self._database.transaction() as connection:
            await job_counters.lock(
                connection, (await connection.scalars(_JOBS_OF, {"batch_ids": list(batch_ids)})).all()
            )
            rows = (await connection.execute(_UNQUEUE, {"batch_ids": list(batch_ids)})).all()
            deltas: dict[UUID, job_counters.Delta] = defaultdict(job_counters.Delta)
            for row in rows:
                deltas[row.job_id].pending += 1
            await self._apply(connection, deltas)
        return len(rows)

    @ledger_call
    async def jobs_with_results(self, after: UUID, limit: int) -> list[UUID]:
        """Jobs, by id, some of whose results wait in Redis."""
        async with self._database.peek() as connection:
            return list((await connection.scalars(_JOBS_WITH_RESULTS, {"after": after, "limit": limit})).all())

    @ledger_call
    async def completed_of(self, job_id: UUID) -> dict[int, int]:
        """Batches of a job that are COMPLETED: first_item to batch id."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_COMPLETED_OF, {"job_id": job_id})).all()
        return {row.first_item: row.batch_id for row in rows}

    @ledger_call
    async def recompute(self, job_id: UUID, batch_ids: Sequence[int], *, shed: bool = False) -> int:
        """Moves COMPLETED batches whose result is gone back to PENDING; those of an ended job end like it.

        `shed`: they count as never fed, so that they wait for room like the rest of their job. Returns how many were
        moved.
        """
        async with self._database.transaction() as connection:
            await job_counters.lock(connection, [job_id])
            rows = (await connection.execute(_RECOMPUTE, {"batch_ids": list(batch_ids), "shed": shed})).all()
            deltas: dict[UUID, job_counters.Delta] = defaultdict(job_counters.Delta)
            for row in rows:
                delta = deltas[row.job_id]
                delta.pending += 1
                delta.finished -= 1
                delta.succeeded -= row.items_succeeded
                delta.failed -= row.items_failed
                delta.truncated -= row.items_truncated
            gone = (await connection.execute(_LOSE, {"batch_ids": list(batch_ids)})).all()
            for row in gone:
                delta = deltas[row.job_id]
                delta.succeeded -= row.items_succeeded
                delta.failed += row.item_count - row.items_failed
                delta.truncated -= row.items_truncated
            await self._apply(connection, deltas)
            await offers.hold_back(connection, job_id, [row.batch_id for row in rows])
        return len(rows) + len(gone)

    async def _apply(self, connection: AsyncConnection, deltas: Mapping[UUID, job_counters.Delta]) -> None:
        await job_counters.apply(connection, deltas, self._retention)


def _retry_values(retried: Sequence[tuple[records.Failure, batches.Retry]]) -> Mapping[str, object]:
    return {
        "batch_ids": [f.batch_id for f, _ in retried],
        "tokens": [f.lease_token for f, _ in retried],
        "delays": [retry.delay for _, retry in retried],
        "counts": [int(retry.counts) for _, retry in retried],
    }


def _split_values(split: Sequence[tuple[records.Failure, batches.Split]]) -> Mapping[str, object]:
    return {
        "batch_ids": [f.batch_id for f, _ in split],
        "tokens": [f.lease_token for f, _ in split],
        "firsts": [halves.first for _, halves in split],
        "seconds": [halves.second for _, halves in split],
    }


def _give_up_values(given_up: Sequence[tuple[records.Failure, batches.GiveUp]]) -> Mapping[str, object]:
    return {
        "batch_ids": [f.batch_id for f, _ in given_up],
        "tokens": [f.lease_token for f, _ in given_up],
        "reasons": [outcome.reason.value for _, outcome in given_up],
        "messages": [_storable(f.message) for f, _ in given_up],
    }


def _storable(words: str) -> str:
    """A worker's words as Postgres can keep them: without NUL, and not a book."""
    return words[:_MAX_WORDS].replace("\x00", "\N{REPLACEMENT CHARACTER}")
