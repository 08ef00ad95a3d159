"""The leader is killed between two steps of the archive, again and again: the next goes on."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from podium_scheduler.app import janitor
from tests.support import stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

STEP_S = 90.0
JOB_ID = UUID(int=7)
BATCHES = 50_000
FAILED = 500

_JOB = """
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
        item_count, batch_count, batches_finished, items_succeeded, items_failed, feedable, finish_time, expire_time)
    VALUES ($1, 'default', gen_random_uuid(), 'digest', 'hash-384', 1, 3, '', 'COMPLETED', $2, $2, $2,
        $2::int - $3::int, $3, false, now() - interval '8 days', now() - interval '1 day')
"""
_BATCHES = """
    INSERT INTO batches (job_id, first_item, item_count, state, attempt, finish_time, payload, payload_encoding,
                         failure_reason, failure_message)
    SELECT $1, n, 1, CASE WHEN n % 100 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, 1, now() - interval '8 days', 'payload',
        1, CASE WHEN n % 100 = 0 THEN 'INTERNAL' END, CASE WHEN n % 100 = 0 THEN 'told' END
    FROM generate_series(0, $2::int - 1) AS n
"""
_PROGRESS = """
    SELECT (SELECT archived FROM jobs WHERE job_id = $1) AS archived,
        (SELECT results_expired FROM jobs WHERE job_id = $1) AS results_expired,
        (SELECT count(*) FROM batches WHERE job_id = $1) AS left_over,
        (SELECT count(*) FROM batches WHERE job_id = $1 AND state = 'FAILED') AS failed_left,
        (SELECT count(*) FROM failed_batches WHERE job_id = $1) AS failed_kept
"""


async def progress(connection: asyncpg.Connection) -> asyncpg.Record:
    """How far the archive is; true at every moment: no failure is lost, and only the last batch ends it."""
    found = await connection.fetchrow(_PROGRESS, JOB_ID)
    assert found["failed_left"] + found["failed_kept"] == FAILED
    assert found["archived"] == (found["left_over"] == 0)
    assert found["results_expired"] or found["left_over"] == BATCHES
    return found


async def until_fewer(connection: asyncpg.Connection, than: int) -> asyncpg.Record:
    async with asyncio.timeout(STEP_S):
        while (found := await progress(connection))["left_over"] >= than:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found


async def test_killed_leaders_leave_nothing_half_archived(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as running:
        connection = await asyncpg.connect(running.postgres.url.replace("+asyncpg", ""))
        try:
            await connection.execute("INSERT INTO apps (app_id) VALUES ('default')")
            await connection.execute(_JOB, JOB_ID, BATCHES, FAILED)
            await connection.execute(_BATCHES, JOB_ID, BATCHES)
            left, kills = BATCHES, 0
            while left and kills < 3:
                scheduler = await running.start("scheduler")
                left = (await until_fewer(connection, left))["left_over"]
                kills += left > 0
                await scheduler.stop(signal.SIGKILL)
                # Steps are whole: what was killed in the middle of one has done nothing of it.
                left = (await progress(connection))["left_over"]
                assert (BATCHES - left) % janitor._MAX_BATCHES == 0
            assert kills
            await running.start("scheduler")
            assert (await until_fewer(connection, 1))["failed_kept"] == FAILED
            assert await connection.fetchval("SELECT state FROM jobs WHERE job_id = $1", JOB_ID) == "COMPLETED"
        finally:
            await connection.close()
