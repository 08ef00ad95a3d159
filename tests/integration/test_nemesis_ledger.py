"""The nemesis' invariants of the ledger can fail: for each there is a change that it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from tests.faults.nemesis import ledger
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = "00000000-0000-4000-8000-000000000001"
OVER = "00000000-0000-4000-8000-000000000002"
SESSION = "00000000-0000-4000-8000-000000000003"

GOOD = f"""
INSERT INTO apps (app_id) VALUES ('default');
INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time)
VALUES ('{SESSION}', gen_random_uuid(), 'scheduler0', 'host', '1', '', 'OPEN', now() + interval '1 hour');
INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state, item_count,
    batch_count, batches_finished, items_succeeded, items_released, feedable, finish_time, expire_time, archived)
VALUES ('{JOB}', 'default', gen_random_uuid(), '', 'hash-384', 1, 3, '', 'COMPLETED', 30, 3, 3, 30, 10, false,
        now(), now() + interval '1 day', false),
       ('{OVER}', 'default', gen_random_uuid(), '', 'hash-384', 1, 3, '', 'COMPLETED', 5, 1, 1, 5, 5, false,
        now(), now() + interval '1 day', true);
INSERT INTO batches (job_id, first_item, item_count, state, attempt, finish_time, payload, payload_encoding,
    items_succeeded)
VALUES ('{JOB}', 0, 10, 'DELIVERED', 1, now(), NULL, 1, 10),
       ('{JOB}', 10, 10, 'COMPLETED', 1, now(), 'p', 1, 10),
       ('{JOB}', 20, 10, 'COMPLETED', 1, now(), 'p', 1, 10);
"""

_SECOND = f"job_id = '{JOB}' AND first_item = 10"
_THIRD = f"job_id = '{JOB}' AND first_item = 20"
_LEASE = f"state = 'LEASED', finish_time = NULL, lease_token = 'token', session_id = '{SESSION}'"

SPOILS = {
    "counters_equal_the_batches": f"UPDATE jobs SET items_succeeded = 29 WHERE job_id = '{JOB}'",
    "an_archived_job_has_no_batches_and_is_over": f"UPDATE jobs SET archived = true WHERE job_id = '{JOB}'",
    "batches_tile_the_job": f"DELETE FROM batches WHERE {_SECOND}",
    "one_job_a_request": "UPDATE jobs SET request_id = (SELECT min(request_id::text)::uuid FROM jobs)",
    "feedable_says_what_it_means": f"UPDATE jobs SET feedable = true WHERE job_id = '{JOB}'",
    "a_job_is_final_exactly_when_nothing_of_it_is_open": f"UPDATE batches SET state = 'PENDING' WHERE {_SECOND}",
    "a_completed_job_has_every_outcome": f"UPDATE jobs SET items_succeeded = 29 WHERE job_id = '{JOB}'",
    "only_batches_of_ended_jobs_end_like_them": f"UPDATE batches SET state = 'CANCELLED' WHERE {_SECOND}",
    "what_is_released_is_delivered": f"UPDATE jobs SET items_released = 20 WHERE job_id = '{JOB}'",
    "what_is_acknowledged_is_released": f"UPDATE jobs SET acknowledged_item = 20 WHERE job_id = '{JOB}'",
    "delivered_lies_before_released_or_acknowledged": "UPDATE batches SET state = 'DELIVERED', payload = NULL"
    f" WHERE {_THIRD}",
    "all_that_is_acknowledged_counts_as_released": f"UPDATE jobs SET acknowledged_item = 15 WHERE job_id = '{JOB}'",
    "no_payload_after_delivery": "UPDATE batches SET payload = 'p' WHERE state = 'DELIVERED'",
    "open_batches_keep_their_payload": f"UPDATE batches SET payload = NULL WHERE {_SECOND}",
    "a_lease_is_whole": f"UPDATE batches SET lease_token = 'token' WHERE {_SECOND}",
    "no_token_twice": f"UPDATE batches SET {_LEASE} WHERE {_SECOND} OR {_THIRD}",
    "one_open_session_a_worker": "INSERT INTO sessions SELECT gen_random_uuid(), worker_id, replica_id, hostname,"
    " version, pod_id, hello, status, credits, state, connect_time, heartbeat_time, expire_time FROM sessions",
    "a_failed_batch_says_why": f"UPDATE batches SET state = 'FAILED' WHERE {_SECOND}",
    "a_batch_given_up_for_its_worker_used_its_attempts": "UPDATE batches SET state = 'FAILED',"
    f" failure_reason = 'WORKER_LOST', attempt = 4 WHERE {_SECOND}",
    "no_job_is_stuck": f"UPDATE jobs SET state = 'RUNNING' WHERE job_id = '{JOB}'",
    "no_batch_is_open": f"UPDATE batches SET state = 'QUEUED' WHERE {_SECOND}",
    "no_lease_leaked": f"UPDATE batches SET {_LEASE} WHERE {_SECOND}",
    "no_session_without_a_heartbeat": "UPDATE sessions SET expire_time = now() - interval '1 second'",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connection() -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A ledger with two good jobs and without the constraints that would keep it good."""
    async with shared_postgres.migrated() as postgres:
        connected = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
        await connected.execute(GOOD)
        for row in await connected.fetch(
            "SELECT conrelid::regclass::text AS of, conname FROM pg_constraint"
            " WHERE conrelid::regclass::text IN ('jobs', 'batches', 'sessions') AND contype IN ('c', 'u')"
        ):
            await connected.execute(f"ALTER TABLE {row['of']} DROP CONSTRAINT {row['conname']}")
        yield connected
        await connected.close()


async def test_a_good_ledger_violates_nothing(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    assert await ledger.violations(connection, quiet=True) == []


@pytest.mark.parametrize("name", [i.name for i in ledger.invariants()])
async def test_each_invariant_refuses_something(connection: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(SPOILS[name])
        found = await ledger.violations(connection, quiet=True)
    finally:
        await transaction.rollback()
    assert any(f"ledger: {name}:" in one for one in found), found


async def test_the_quiet_ones_are_not_asked_for_in_the_middle(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(SPOILS["no_session_without_a_heartbeat"])
        assert await ledger.violations(connection, quiet=False) == []
        assert await ledger.violations(connection, quiet=True) != []
    finally:
        await transaction.rollback()
