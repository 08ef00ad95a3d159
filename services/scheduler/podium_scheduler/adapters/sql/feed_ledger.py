"""Statements of the feeder alone: what there is to feed and where to, and batches that go straight to idle workers,
those of a job that is just being admitted too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import RowMapping, column, text

from podium_scheduler.adapters.sql import batch_ledger, job_ledger, leadership
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import feeding, records
from podium_scheduler.domain import fairness

# One look more for each workload that waits tells whether a job is alone: then nobody has to ask whose turn it is. What
# is offered is only of interest where something waits.
_OUTLOOK = text(f"""
    WITH RECURSIVE {batch_ledger.WAITING},
    offered AS (
        SELECT c.key AS workload, CAST(sum(CAST(c.value AS int)) AS int) AS credits
        FROM sessions s CROSS JOIN LATERAL jsonb_each_text(s.credits) AS c
        WHERE s.state = 'OPEN' AND EXISTS (SELECT FROM waiting) GROUP BY c.key
    ), busy AS (
        SELECT j.workload, CAST(sum(b.item_count) AS bigint) AS items, bool_or(b.queued) AS queued FROM (
            SELECT job_id, item_count, true AS queued FROM batches WHERE state = 'QUEUED'
            UNION ALL SELECT job_id, item_count, false FROM batches WHERE session_id IS NOT NULL) AS b
        JOIN jobs j ON j.job_id = b.job_id GROUP BY j.workload
    )
    SELECT coalesce(waiting.workload, offered.workload, busy.workload) AS workload,
        waiting.workload IS NOT NULL AS waits, coalesce(offered.credits, 0) AS credits,
        coalesce(busy.items, 0) AS in_flight, coalesce(busy.queued, false) AS queued, one.*
    FROM waiting FULL JOIN offered ON offered.workload = waiting.workload
    FULL JOIN busy ON busy.workload = coalesce(waiting.workload, offered.workload)
    LEFT JOIN LATERAL (
        SELECT two.job_id, two.app_id, two.priority, now() - two.create_time AS age, two.batches_pending,
            two.batch_items, CAST(ceil(two.held_items / CAST(two.batch_items AS float8)) AS int) AS held_batches,
            head.queue_time IS NOT NULL AS gap, a.weight
        FROM (
            SELECT job_id, app_id, priority, create_time, batches_pending, count(*) OVER () AS jobs,
                   {batch_ledger.HOLDS}
            FROM (SELECT * FROM jobs WHERE feedable AND jobs.workload = waiting.workload LIMIT 2) AS first_two) AS two
        JOIN apps a ON a.app_id = two.app_id
        CROSS JOIN LATERAL (
            SELECT queue_time FROM batches
            WHERE job_id = two.job_id AND state = 'PENDING' AND not_before <= now()
            ORDER BY first_item LIMIT 1) AS head
        WHERE two.jobs = 1) AS one ON true
""")

# Feeding and claiming in one step: from PENDING through QUEUED to LEASED, with the guards of both.
_LEASE = text(f"""
    WITH {leadership.HELD_TERM}, slots(job_id, nth, lease_token, session_id) AS (
        SELECT * FROM unnest(CAST(:job_ids AS uuid[]), CAST(:nths AS int[]), CAST(:tokens AS bytea[]),
                             CAST(:session_ids AS uuid[]))
    ), turns AS (
        SELECT job_id, max(nth) AS batches FROM slots GROUP BY job_id
    ), locked AS MATERIALIZED (
        SELECT job_id FROM jobs
        WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND feedable AND EXISTS (SELECT FROM term)
        ORDER BY job_id FOR NO KEY UPDATE
    ), picked AS MATERIALIZED (
        SELECT b.* FROM turns JOIN locked ON locked.job_id = turns.job_id CROSS JOIN LATERAL (
            SELECT batch_id, job_id, first_item FROM batches
            WHERE job_id = turns.job_id AND state = 'PENDING' AND not_before <= now()
            ORDER BY first_item LIMIT turns.batches FOR UPDATE SKIP LOCKED) AS b
    ), numbered AS (
        SELECT batch_id, job_id, row_number() OVER (PARTITION BY job_id ORDER BY first_item) AS nth FROM picked
    ), leased AS (
        UPDATE batches b
        SET state = 'LEASED', queue_time = now(), attempt = b.attempt + 1, lease_token = slots.lease_token,
            session_id = slots.session_id, lease_time = now()
        FROM numbered JOIN slots ON slots.job_id = numbered.job_id AND slots.nth = numbered.nth
        JOIN sessions s ON s.session_id = slots.session_id AND s.state = 'OPEN'
        WHERE b.batch_id = numbered.batch_id
        RETURNING b.*
    ), counted AS (
        UPDATE jobs SET batches_pending = jobs.batches_pending - f.batches,
            feedable = jobs.batches_pending - f.batches > 0, state = 'RUNNING',
            start_time = CASE WHEN jobs.state = 'PENDING' THEN now() ELSE jobs.start_time END
        FROM (SELECT job_id, count(*) AS batches FROM leased GROUP BY job_id) AS f WHERE jobs.job_id = f.job_id
    )
    SELECT EXISTS (SELECT FROM term) AS leads, {batch_ledger.LEASED}
    FROM (VALUES (1)) AS always(one) LEFT JOIN leased b ON true LEFT JOIN jobs j ON j.job_id = b.job_id
""")

# Admitting, feeding and claiming in one step. Where a session is over, or another replica leads, its batch waits.
_ADMITTED = ("batch_id", "leased_from", "lease_token", "session_id")
_ADMIT_LEASED = text(f"""
    WITH {leadership.HELD_TERM}, slots AS (
        SELECT slot.lease_token, slot.session_id, row_number() OVER (ORDER BY slot.nth) AS nth
        FROM unnest(CAST(:tokens AS bytea[]), CAST(:session_ids AS uuid[]))
            WITH ORDINALITY AS slot(lease_token, session_id, nth)
        JOIN sessions s ON s.session_id = slot.session_id AND s.state = 'OPEN'
        WHERE EXISTS (SELECT FROM term)
    ), taken AS (
        SELECT CAST(count(*) AS int) AS batches FROM slots
    ), app AS ({job_ledger.APP_WITH_ROOM}), job AS (
        INSERT INTO jobs ({job_ledger.NEW_JOB}, state, batches_pending, feedable, start_time)
        SELECT {job_ledger.NEW_JOB_VALUES}, CASE WHEN taken.batches > 0 THEN 'RUNNING' ELSE 'PENDING' END,
            CAST(:batch_count AS int) - taken.batches, CAST(:batch_count AS int) > taken.batches,
            CASE WHEN taken.batches > 0 THEN now() END
        FROM app CROSS JOIN taken ON CONFLICT (app_id, request_id) DO NOTHING
        RETURNING {job_ledger.COLUMNS}
    ), cut AS (
        INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding, state, queue_time, attempt,
                             lease_token, session_id, lease_time)
        SELECT job.job_id, new.first_item, new.item_count, new.payload, new.payload_encoding,
            CASE WHEN slots.nth IS NULL THEN 'PENDING' ELSE 'LEASED' END,
            CASE WHEN slots.nth IS NOT NULL THEN now() END, CAST(slots.nth IS NOT NULL AS int), slots.lease_token,
            slots.session_id, CASE WHEN slots.nth IS NOT NULL THEN now() END
        FROM job CROSS JOIN unnest(CAST(:first_items AS int[]), CAST(:item_counts AS int[]),
            CAST(:payloads AS bytea[]), CAST(:encodings AS smallint[]))
            WITH ORDINALITY AS new(first_item, item_count, payload, payload_encoding, nth)
        LEFT JOIN slots ON slots.nth = new.nth
        RETURNING batch_id, first_item AS leased_from, lease_token, session_id
    )
    SELECT EXISTS (SELECT FROM term) AS leads, {job_ledger.COLUMNS}, {", ".join(f"cut.{name}" for name in _ADMITTED)}
    FROM job LEFT JOIN cut ON cut.lease_token IS NOT NULL
""").columns(column("leads"), *job_ledger.JOB_COLUMNS, *(column(name) for name in _ADMITTED))


class FeedLedger:
    """What the feeder asks and does. Every method is one statement; all raise errors.Unavailable while Postgres is
    away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def outlook(self) -> feeding.Outlook:
        """What waits, what is in flight, and where something waits, what sessions offer."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_OUTLOOK)).all()
        alone = {
            r.workload: fairness.Candidate(
                str(r.job_id), r.app_id, r.priority, r.age, r.batches_pending, r.batch_items, r.held_batches, r.gap
            )
            for r in rows
            if r.job_id is not None
        }
        return feeding.Outlook(
            waiting=[r.workload for r in rows if r.waits],
            credits={r.workload: r.credits for r in rows},
            in_flight={r.workload: r.in_flight for r in rows},
            queued=[r.workload for r in rows if r.queued],
            alone=alone,
            weights={r.app_id: r.weight for r in rows if r.job_id is not None},
        )

    @ledger_call
    async def lease(self, slots: Sequence[feeding.Slot]) -> list[records.Leased]:
        """Leases the next batches of jobs to the sessions that wait for them, as far as both are still there: what
        feeding and claiming would do one after the other. Counts and starts the jobs."""
        turns: Counter[UUID] = Counter()
        nths = []
        for slot in slots:
            turns[slot.job_id] += 1
            nths.append(turns[slot.job_id])
        values = {
            "job_ids": [s.job_id for s in slots],
            "nths": nths,
            "tokens": [s.lease_token for s in slots],
            "session_ids": [s.session_id for s in slots],
        }
        rows = await leadership.write(self._database, _LEASE, values)
        found = [tuple(row) for row in rows if row.batch_id is not None]
        return [records.Leased(*leased) for _leads, *leased in found]

    @ledger_call
    async def admit(
        self, job_id: UUID, new: records.NewJob, slots: Sequence[feeding.Slot]
    ) -> tuple[records.Job, list[records.Leased]] | None:
        """Writes a job and its batches, the first of them leased to the sessions that wait for them, as far as they are
        still there and this replica still leads. None, and nothing is written, as in JobLedger.admit_at_once."""
        held = leadership.held(self._database)
        values = {
            **job_ledger.job_row(job_id, new),
            **job_ledger.batch_rows(job_id, new.batches),
            "tokens": [s.lease_token for s in slots],
            "session_ids": [s.session_id for s in slots],
            "term": held.term if held else None,
        }
        async with self._database.stroke(holds_fence=held is not None) as connection:
            rows = (await connection.execute(_ADMIT_LEASED, values)).mappings().all()
        if not rows:
            return None
        if held is not None and not rows[0]["leads"]:
            # The job is admitted all the same: that is nothing that only a leader may do.
            held.refused()
        job = job_ledger.job_of(rows[0])
        of = {batch.first_item: batch for batch in new.batches}
        return job, [_leased(job, new, of[r["leased_from"]], r) for r in rows if r["batch_id"] is not None]


def _leased(job: records.Job, new: records.NewJob, batch: records.NewBatch, row: RowMapping) -> records.Leased:
    return records.Leased(
        batch_id=row["batch_id"],
        lease_token=row["lease_token"],
        session_id=row["session_id"],
        attempt=1,
        job_id=job.job_id,
        workload=new.workload,
        modality=new.modality,
        first_item=batch.first_item,
        item_count=batch.item_count,
        payload=batch.payload,
        payload_encoding=batch.payload_encoding,
        payload_offset=0,
        options=new.options,
        deadline=job.deadline,
        traceparent=new.traceparent,
        job_starts=True,
        waited_s=0.0,
    )
