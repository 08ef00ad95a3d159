"""What a claim costs, and what happens without any consumer: filling goes on, and counting stays cheap."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_scheduler.adapters.sql import consumer_ledger, database, migrate
from podium_scheduler.app import consumer_keeper
from tests.support import consumer_rig
from tests.support.consumer_rig import WEEK, Ledger, told

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 20_000
TOUCHED = re.compile(r"(?:actual rows=|Rows Removed by (?:Filter|Join Filter): )(\d+)")

# A job that was COMPLETED and whose results are all lost: none of its deliveries, its end included, can be claimed.
_LOST_JOB = """
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
                      item_count, batch_count, batches_pending, feedable, offered)
    VALUES (:job_id, :app, gen_random_uuid(), '', 'hash-384', 1, 3, '', 'RUNNING', :many, :many, :many, true, true)
"""
_LOST_BATCHES = """
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding, offered)
    SELECT :job_id, n, 1, 'p', 1, true FROM generate_series(0, :many - 1) AS n
"""
_WAITING = """
    INSERT INTO deliveries (group_id, job_id, batch_id, ready)
    SELECT g.group_id, b.job_id, b.batch_id, false FROM consumer_groups g, batches b
    WHERE g.app_id = :app AND b.job_id = :job_id
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with consumer_rig.serving() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(pool: database.Database) -> AsyncIterator[Ledger]:
    """After each test, what may be given out is what should be."""
    made = await consumer_rig.new_app(pool)
    yield made
    assert await made.wrongly_ready() == 0


class News:
    """Groups that were woken."""

    def __init__(self) -> None:
        self.groups: set[int] = set()

    def note(self, groups: set[int], _: object) -> None:
        self.groups |= groups


def keeper(ledger: Ledger, news: News) -> consumer_keeper.ConsumerKeeper:
    told_to: Any = news
    return consumer_keeper.ConsumerKeeper(ledger.consumers, told_to, WEEK)


async def many_wait(ledger: Ledger) -> UUID:
    """A job of MANY batches, all of which every group waits for and nobody can have."""
    job_id = uuid.uuid4()
    await ledger.run(_LOST_JOB, app=ledger.app, job_id=job_id, many=MANY)
    await ledger.run(_LOST_BATCHES, job_id=job_id, many=MANY)
    await ledger.run(_WAITING, app=ledger.app, job_id=job_id)
    return job_id


async def claim_plan(ledger: Ledger, consumer: UUID) -> str:
    """The plan of a claim of 10 as it ran; it is rolled back."""
    async with ledger.database.engine.connect() as connection:
        group_id = await connection.scalar(
            text("SELECT group_id FROM consumers WHERE consumer_id = :me"), {"me": consumer}
        )
        explain = text(f"EXPLAIN (ANALYZE, TIMING OFF) {consumer_ledger._CLAIM.text}")
        values = {"group_id": group_id, "consumer_id": consumer, "limit": 10}
        return "\n".join((await connection.scalars(explain, values)).all())


@pytest.mark.parametrize("analyzed", [True, False])
async def test_a_claim_does_not_walk_over_what_cannot_be_claimed(ledger: Ledger, analyzed: bool) -> None:
    me = await ledger.consumer()
    await many_wait(ledger)
    if analyzed:
        await ledger.run("ANALYZE")
    for claimable in (0, 3):
        if claimable:
            await ledger.done(claimable)
        plan = await claim_plan(ledger, me)
        if max(int(rows) for rows in TOUCHED.findall(plan)) > 20 or "Seq Scan on deliveries" in plan:
            pytest.fail(f"a claim reads what it cannot give:\n{plan}")
    assert len(await ledger.drain(me)) == 4


async def test_a_claim_puts_what_has_expired_aside(ledger: Ledger) -> None:
    me = await ledger.consumer()
    expired = await ledger.done(3)
    await ledger.run("UPDATE jobs SET results_expired = true WHERE job_id = :job_id", job_id=expired)
    await ledger.done(1)
    assert await ledger.take(me, limit=3) == []
    assert told(await ledger.take(me, limit=3)) == [(0, "COMPLETED")]


async def test_a_migrated_ledger_knows_what_may_be_given_out(ledger: Ledger) -> None:
    me = await ledger.consumer()
    lost, whole, half = await ledger.done(1), await ledger.done(1), await ledger.done(2)
    await ledger.batches.recompute(lost, list((await ledger.batch_ids(lost)).values()))
    await ledger.batches.recompute(half, [(await ledger.batch_ids(half))[0]])
    url = ledger.database.engine.url.render_as_string(hide_password=False)
    await migrate.downgrade(url, "0006")
    await migrate.upgrade(url)
    assert await ledger.wrongly_ready() == 0
    got = await ledger.drain(me)
    assert [(d.job_id, d.batch is None) for d in got] == [(whole, False), (half, False), (whole, True)]


async def test_the_leader_fills_a_group_whose_consumers_are_gone(ledger: Ledger) -> None:
    """Else it would hold back all results of its app, until somebody opened it again."""
    one = await ledger.consumer("one")
    jobs = [await ledger.done(1) for _ in range(consumer_ledger._FILL_JOBS + 1)]
    opened = await ledger.consumers.open(uuid.uuid4(), ledger.app, "two", "")
    await ledger.consumers.close(opened.consumer_id)
    first = (await ledger.take(one))[:1]
    assert await ledger.ack(one, first) == []
    news = News()
    loop = keeper(ledger, news)
    for _ in range(3):
        await loop.round()
    assert await ledger.consumers.unfilled(100) == []
    assert opened.group_id in news.groups
    two = await ledger.consumer("two")
    assert len(await ledger.drain(two)) == 2 * len(jobs)
    assert await ledger.states(first[0].job_id) == ["DELIVERED"]


async def test_a_full_ledger_of_groups_lets_the_keeper_rest(ledger: Ledger) -> None:
    await ledger.done(1)
    await ledger.consumers.open(uuid.uuid4(), ledger.app, "new", "")
    loop = keeper(ledger, News())
    assert (await loop.round(), await loop.round()) == (0.0, consumer_keeper._INTERVAL_S)


async def test_many_deliveries_are_not_counted_one_by_one(ledger: Ledger) -> None:
    await ledger.consumer()
    before, _ = await ledger.consumers.counts()
    await ledger.done(2)
    # Exact while they are few; the tests before this one may have left many.
    if before < consumer_ledger._COUNTED:
        assert (await ledger.consumers.counts())[0] == before + 3
    await many_wait(ledger)
    async with ledger.database.transaction() as connection:
        explain = text(f"EXPLAIN (ANALYZE, TIMING OFF) {consumer_ledger._COUNTS.text}")
        plan = "\n".join((await connection.scalars(explain, {"counted": 100})).all())
    assert max(int(rows) for rows in TOUCHED.findall(plan)) <= 100, plan
    await ledger.run("ANALYZE deliveries")
    waiting, _ = await ledger.consumers.counts()
    assert waiting >= MANY
