"""What interactive calls ask for, in a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_scheduler.adapters.sql import database, demand_ledger, migrate
from podium_scheduler.app import records
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(pool: database.Database) -> demand_ledger.DemandLedger:
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE interactive_demand"))
    return demand_ledger.DemandLedger(pool)


async def _age(pool: database.Database, seconds: int) -> None:
    move = text("""
        UPDATE interactive_demand SET last_asked = last_asked - make_interval(secs => :s),
            waiting_since = waiting_since - make_interval(secs => :s)
    """)
    async with pool.transaction() as connection:
        await connection.execute(move, {"s": seconds})


async def test_the_migration_goes_both_ways(pool: database.Database) -> None:
    await migrate.check(pool.url)
    await migrate.downgrade(pool.url, "0010")
    await migrate.upgrade(pool.url)
    await migrate.check(pool.url)


async def test_who_waits_is_as_old_as_the_first_until_one_is_served(
    pool: database.Database, ledger: demand_ledger.DemandLedger
) -> None:
    await ledger.record([records.AskedFor("b", 2, 2), records.AskedFor("a", 1, 0)])
    await _age(pool, 20)
    await ledger.record([records.AskedFor("b", 1, 1)])
    a, b = await ledger.recent()
    assert (a.workload, a.waiting_since, a.waiting_s) == ("a", None, 0.0)
    assert b.waiting_since is not None
    assert 19 < b.waiting_s < 30
    await ledger.record([records.AskedFor("b", 3, 1)])
    (b,) = [one for one in await ledger.recent() if one.workload == "b"]
    assert b.waiting_since is None
    await ledger.record([records.AskedFor("b", 1, 1)])
    (b,) = [one for one in await ledger.recent() if one.workload == "b"]
    assert b.waiting_s < 10, "a new wait"


async def test_what_is_older_than_a_minute_counts_for_nothing(
    pool: database.Database, ledger: demand_ledger.DemandLedger
) -> None:
    await ledger.record([records.AskedFor("a", 1, 1)])
    await _age(pool, 61)
    assert await ledger.recent() == []
    await ledger.record([records.AskedFor("a", 1, 1)])
    (found,) = await ledger.recent()
    assert found.waiting_s < 10, "whoever waited then has gone"
