"""What is due, by the clock of Postgres: one statement has to see all that the loops which it wakes would see to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import event, text

from podium_scheduler.adapters.sql import database, due_ledger, leadership
from podium_scheduler.app import records
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

_JOB = """
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
        item_count, batch_count, batches_pending, batches_finished, items_succeeded, items_released, feedable, deadline,
        finish_time, expire_time)
    SELECT gen_random_uuid(), 'default', gen_random_uuid(), '', 'hash-384', 1, 3, '', {state}, 1, 1, {pending},
        {finished}, {finished}, {released}, {pending} > 0, {deadline}, {finish}, now() + interval '1 day'
"""
_ACTIVE = {"state": "'RUNNING'", "pending": 0, "finished": 0, "released": 0, "deadline": "NULL", "finish": "NULL"}
_OVER = {**_ACTIVE, "state": "'COMPLETED'", "finished": 1, "finish": "now()"}
_SESSION = """
    INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time)
    SELECT gen_random_uuid(), gen_random_uuid(), '', '', '', '', {state}, now() + {left}
"""
_GROUP = "INSERT INTO consumer_groups (app_id, name, filled) VALUES ('default', 'g', {filled})"
_CONSUMER = f"""
    WITH g AS ({_GROUP.format(filled=True)} RETURNING group_id)
    INSERT INTO consumers (consumer_id, group_id, expire_time)
    SELECT gen_random_uuid(), group_id, now() + {{left}} FROM g
"""
_LEASE = f"""
    WITH j AS ({_JOB.format(**_ACTIVE)} RETURNING job_id), s AS ({_SESSION} RETURNING session_id)
    INSERT INTO batches (job_id, first_item, item_count, state, lease_token, session_id, payload, payload_encoding)
    SELECT job_id, 0, 1, 'LEASED', '', session_id, '', 1 FROM j, s
"""
_LATER, _PAST = "interval '1 hour'", "interval '-1 second'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        async with made.transaction() as connection:
            await connection.execute(text("INSERT INTO apps (app_id) VALUES ('default')"))
        yield made
        await made.close()


@pytest.mark.parametrize(
    ("there", "due"),
    [
        (_SESSION.format(state="'OPEN'", left=_LATER), set()),
        (_SESSION.format(state="'BROKEN'", left=_PAST), {"lost_leases"}),
        (_SESSION.format(state="'ENDED'", left=_PAST), set()),
        (_LEASE.format(state="'OPEN'", left=_LATER), set()),
        (_LEASE.format(state="'ENDED'", left=_PAST), {"lost_leases"}),
        (_JOB.format(**_ACTIVE), set()),
        (_JOB.format(**_ACTIVE | {"pending": 1}), {"waiting"}),
        (_JOB.format(**_ACTIVE | {"deadline": f"now() + {_LATER}"}), set()),
        (_JOB.format(**_ACTIVE | {"deadline": f"now() + {_PAST}"}), {"over_jobs"}),
        (_JOB.format(**_OVER), set()),
        (_JOB.format(**_OVER | {"released": 1}), {"over_jobs"}),
        (_GROUP.format(filled=True), set()),
        (_GROUP.format(filled=False), {"consumers"}),
        (_CONSUMER.format(left=_LATER), set()),
        (_CONSUMER.format(left=_PAST), {"consumers"}),
    ],
)
async def test_what_is_due_is_seen_and_nothing_else(pool: database.Database, there: str, due: set[str]) -> None:
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE jobs, sessions, consumer_groups CASCADE"))
        await connection.execute(text(there))
    found = await due_ledger.DueLedger(pool).due()
    assert {name for name in records.Due.__dataclass_fields__ if getattr(found, name)} == due


async def test_a_peek_is_one_statement_even_under_a_fence(pool: database.Database) -> None:
    said: list[str] = []
    begun: list[object] = []

    def executed(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement)

    engine = pool.engine.sync_engine
    event.listen(engine, "before_cursor_execute", executed)
    try:
        await due_ledger.DueLedger(pool.under(leadership.fence(1, lambda: begun.append(None)))).due()
    finally:
        event.remove(engine, "before_cursor_execute", executed)
    assert (len(said), begun) == (1, [])


async def test_a_transaction_after_a_peek_is_a_transaction_again(pool: database.Database) -> None:
    count = text("SELECT count(*) FROM apps")
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as connection:
            await connection.execute(text("INSERT INTO apps (app_id) VALUES ('gone')"))
            raise ZeroDivisionError
    async with pool.peek() as connection:
        assert await connection.scalar(count) == 1
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as connection:
            await connection.execute(text("INSERT INTO apps (app_id) VALUES ('gone')"))
            raise ZeroDivisionError
    async with pool.peek() as connection:
        assert await connection.scalar(count) == 1
