"""How long a session lasts in Postgres: as long as its lease, and never longer for having broken."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_scheduler.adapters.sql import database, session_ledger
from podium_scheduler.app import records
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL = timedelta(minutes=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def observer(pool: database.Database) -> AsyncIterator[database.Database]:
    made = database.Database(pool.url, pool_size=1)
    yield made
    await made.close()


async def expiry(pool: database.Database, session_id: uuid.UUID) -> datetime:
    async with pool.transaction() as connection:
        query = text("SELECT expire_time FROM sessions WHERE session_id = :session_id")
        found: datetime = await connection.scalar(query, {"session_id": session_id})
        return found


async def test_a_broken_stream_shortens_its_session_and_never_lengthens_it(pool: database.Database) -> None:
    sessions = session_ledger.SessionLedger(pool, TTL)
    new = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"")
    await sessions.open(new, [])
    lease = await expiry(pool, new.session_id)
    await sessions.mark_broken(new.session_id, 10 * TTL)
    assert await expiry(pool, new.session_id) == lease

    again = records.NewSession(uuid.uuid4(), new.worker_id, "replica-1", "host", "0", "", b"")
    await sessions.open(again, [])
    lease = await expiry(pool, again.session_id)
    await sessions.mark_broken(again.session_id, TTL / 4)
    assert lease - TTL < await expiry(pool, again.session_id) < lease - TTL / 2


async def until_blocked(pool: database.Database) -> None:
    """Until somebody waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(30):
        while True:
            async with pool.engine.connect() as connection:
                if await connection.scalar(waiting):
                    return
            await asyncio.sleep(0.02)


async def test_a_wish_to_drain_that_meets_a_reconnecting_worker_is_not_lost(
    pool: database.Database, observer: database.Database
) -> None:
    sessions = session_ledger.SessionLedger(pool, TTL)
    new = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"")
    await sessions.open(new, [])
    async with pool.transaction() as asking:
        await asking.execute(
            text("UPDATE sessions SET drain = true WHERE worker_id = :worker_id"), {"worker_id": new.worker_id}
        )
        again = records.NewSession(uuid.uuid4(), new.worker_id, "replica-2", "host", "0", "", b"")
        opening = asyncio.create_task(sessions.open(again, []))
        await until_blocked(observer)
    _, superseded, standing = await opening
    assert superseded == [new.session_id]
    assert standing.drain
