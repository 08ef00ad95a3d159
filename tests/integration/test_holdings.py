"""Who holds the buffer, by the ledger's counters: those whose results are there, not those who have failed."""

from __future__ import annotations

import uuid
from uuid import UUID

from sqlalchemy import text

from podium_scheduler.adapters.sql import database, holdings_ledger, job_ledger
from tests.support import shared_postgres

_JOB = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
        item_count, batch_count, batches_finished, items_succeeded, items_failed, items_released, feedable, finish_time)
    VALUES (:job_id, 'default', :request_id, '', 'hash-384', 1, 3, '', 'COMPLETED', :items, 1, 1, :succeeded,
        :failed, :released, false, now())
""")


async def test_jobs_whose_unread_items_all_failed_hold_the_least() -> None:
    async with shared_postgres.migrated() as postgres:
        pool = database.Database(postgres.url, pool_size=1)
        await job_ledger.JobLedger(pool).put_app("default")

        async def job(items: int, failed: int = 0, released: int = 0) -> UUID:
            job_id = uuid.uuid4()
            values = {
                "job_id": job_id, "request_id": uuid.uuid4(), "items": items, "succeeded": items - failed,
                "failed": failed, "released": released,
            }  # fmt: skip
            async with pool.transaction() as connection:
                await connection.execute(_JOB, values)
            return job_id

        for _ in range(5):
            await job(50_000, failed=50_000)
        small, large = await job(100), await job(1_000)
        mostly_read = await job(50_000, released=49_990)
        found = await holdings_ledger.HoldingsLedger(pool).largest({"hash-384": 1_024}, 3)
        await pool.close()
    assert [holder.job_id for holder in found] == [large, small, mostly_read]
