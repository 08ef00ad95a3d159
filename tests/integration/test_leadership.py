"""One leader: what happens to the lock, the heartbeat and the term when a leader hangs, and to what it writes after."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_runtime import clock, errors
from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    cluster_ledger,
    database,
    feed_ledger,
    job_ledger,
    leadership,
    session_ledger,
)
from podium_scheduler.app import feeding, records
from podium_scheduler.domain import batches
from tests.support import stack

WEEK = timedelta(days=7)
LEASED, QUEUED, COMPLETED = 1, 2, 3
JOB, SESSION, UNREAD, DUE, ARCHIVED = (uuid.UUID(int=n) for n in range(1, 6))
TOKEN = b"t" * 16

# A job with one batch in each state that a leader's loop may change, past its deadline; jobs on
# each step to their removal; a session whose time is over and one that ended long ago.
ROWS = [
    "INSERT INTO apps (app_id) VALUES ('default')",
    f"""INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time)
        VALUES ('{SESSION}', gen_random_uuid(), 'r', 'h', '0', '', 'OPEN', now() - interval '1 s'),
               (gen_random_uuid(), gen_random_uuid(), 'r', 'h', '0', '', 'ENDED', now() - interval '1 day')""",
    f"""INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_pending, batches_finished, items_succeeded, feedable, deadline)
        VALUES ('{JOB}', 'default', gen_random_uuid(), '', 'w', 1, 3, '', 'RUNNING', 4, 4, 1, 1, 1, true,
                now() - interval '1 s')""",
    *(
        f"""INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
                item_count, batch_count, batches_finished, items_succeeded, feedable, finish_time, expire_time,
                results_expired, archived)
            VALUES ('{job_id}', 'default', gen_random_uuid(), '', 'w', 1, 3, '', 'COMPLETED', 1, 1, 1, 1, false,
                    now() - interval '8 days', now() - interval '1 day', {results_expired}, {archived})"""
        for job_id, results_expired, archived in ((UNREAD, False, False), (DUE, True, False), (ARCHIVED, True, True))
    ),
    f"""INSERT INTO batches (batch_id, job_id, first_item, item_count, payload, payload_encoding, state, lease_token,
            session_id, queue_time, finish_time, items_succeeded) OVERRIDING SYSTEM VALUE
        VALUES ({LEASED}, '{JOB}', 0, 1, '', 1, 'LEASED', '\\x{TOKEN.hex()}', '{SESSION}', now(), NULL, 0),
               ({QUEUED}, '{JOB}', 1, 1, '', 1, 'QUEUED', NULL, NULL, now(), NULL, 0),
               ({COMPLETED}, '{JOB}', 2, 1, '', 1, 'COMPLETED', NULL, NULL, now(), now(), 1),
               (4, '{JOB}', 3, 1, '', 1, 'PENDING', NULL, NULL, NULL, NULL, 0),
               (5, '{DUE}', 0, 1, '', 1, 'COMPLETED', NULL, NULL, now(), now(), 1)""",
]
RETRY = records.Failure(LEASED, TOKEN, JOB, batches.Retry(timedelta(0), counts=True), "")

Write = Callable[[database.Database], Awaitable[object]]
WRITES: Mapping[str, Write] = {
    "feed": lambda db: batch_ledger.BatchLedger(db, WEEK).feed({JOB: 1}),
    "lease": lambda db: feed_ledger.FeedLedger(db).lease([feeding.Slot(JOB, b"n" * 16, SESSION)]),
    "fail": lambda db: batch_ledger.BatchLedger(db, WEEK).fail([RETRY]),
    "unqueue": lambda db: batch_ledger.BatchLedger(db, WEEK).unqueue([QUEUED]),
    "recompute": lambda db: batch_ledger.BatchLedger(db, WEEK).recompute(JOB, [COMPLETED]),
    "give up waiting": lambda db: batch_ledger.BatchLedger(db, WEEK).give_up_waiting(
        "w", "nobody", max_jobs=10, max_batches=100
    ),
    "end expired": lambda db: session_ledger.SessionLedger(db, timedelta(seconds=10)).end_expired(10),
    "delete ended": lambda db: session_ledger.SessionLedger(db, WEEK).delete_ended(timedelta(hours=1), 10),
    "expire due": lambda db: job_ledger.JobLedger(db).expire_due(WEEK, max_jobs=10, max_batches=100),
    "due": lambda db: archive_ledger.ArchiveLedger(db).due(9),
    "archive": lambda db: archive_ledger.ArchiveLedger(db).archive([DUE], max_batches=9, max_payload_bytes=99),
    "remove": lambda db: archive_ledger.ArchiveLedger(db).remove(timedelta(0), max_jobs=9, max_failures=9),
    "set redis epoch": lambda db: cluster_ledger.ClusterLedger(db).set_redis_epoch("another"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    async with stack.servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
async def url(shared: stack.Stack, tmp_path: Path) -> AsyncIterator[str]:
    async with stack.fresh(shared, tmp_path) as running:
        yield running.environment["PODIUM_POSTGRES_URL"]


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[database.Database]:
    pool = database.Database(url, pool_size=3)
    yield pool
    await pool.close()


async def contents(ledger: database.Database) -> str:
    """Everything that a leader's loop may change."""
    async with ledger.transaction() as connection:
        tables = [
            (await connection.execute(text(f"SELECT * FROM {name} ORDER BY 1"))).all()
            for name in ("jobs", "batches", "sessions")
        ]
        return repr((tables, await connection.scalar(text("SELECT redis_epoch FROM cluster"))))


async def taken(leader: leadership.Leadership) -> None:
    """Postgres needs a moment to notice that the last leader's connection has closed."""
    async with asyncio.timeout(10):
        while not await leader.attempt():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_under_an_old_term_changes_nothing(url: str, ledger: database.Database, name: str) -> None:
    async with ledger.transaction() as connection:
        for rows in ROWS:
            await connection.execute(text(rows))
    paused, newer = leadership.Leadership(url, "paused"), leadership.Leadership(url, "newer")
    assert await paused.attempt()
    refusals: list[bool] = []
    fenced = ledger.under(leadership.fence(paused.term, lambda: refusals.append(True)))
    await paused.resign()
    await taken(newer)
    before = await contents(ledger)
    with pytest.raises(errors.Unavailable) as refused:
        await WRITES[name](fenced)
    assert (refused.value.reason, refusals) == ("LEADERSHIP_LOST", [True])
    assert await contents(ledger) == before
    # The same under the new term is a write: the test would not have missed it.
    await WRITES[name](ledger.under(leadership.fence(newer.term, pytest.fail)))
    assert await contents(ledger) != before
    await newer.resign()


async def test_reading_needs_no_term(url: str, ledger: database.Database) -> None:
    fenced = ledger.under(leadership.fence(17, pytest.fail))
    assert await batch_ledger.BatchLedger(fenced, WEEK).waiting_workloads() == []


async def test_a_new_term_waits_for_what_the_old_one_has_in_flight(url: str, ledger: database.Database) -> None:
    old, newer = leadership.Leadership(url, "old"), leadership.Leadership(url, "newer")
    assert await old.attempt()
    fence = leadership.fence(old.term, pytest.fail)
    async with ledger.transaction() as connection:
        await connection.execute(text("UPDATE cluster SET redis_epoch = 'in flight'"))
        await fence(connection)
        await old.resign()
        takes = asyncio.create_task(taken(newer))
        async with ledger.transaction() as other, asyncio.timeout(10):
            while not await other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not takes.done()
    await takes
    assert await cluster_ledger.ClusterLedger(ledger).redis_epoch() == "in flight"
    await newer.resign()


async def test_a_leader_that_hangs_is_followed_by_another(url: str) -> None:
    time = clock.FakeClock()
    hangs, follows = leadership.Leadership(url, "hangs"), leadership.Leadership(url, "follows", time=time)
    assert await hangs.attempt()
    assert not await follows.attempt()
    time.advance(2.4)
    assert not await follows.attempt()
    assert await hangs.confirm()
    for _ in range(3):
        # A heartbeat that goes on is no reason, however long it takes.
        assert not await follows.attempt()
        time.advance(2.4)
        assert await hangs.confirm()
    assert not await follows.attempt()
    time.advance(2.6)
    assert await follows.attempt()
    assert follows.term == hangs.term + 1
    assert not await hangs.confirm()
    assert not hangs.leads
    assert not await hangs.attempt()
    assert await follows.confirm()
    await hangs.resign()
    await follows.resign()


async def test_a_term_that_was_superseded_writes_no_heartbeat(url: str, ledger: database.Database) -> None:
    old = leadership.Leadership(url, "old")
    assert await old.attempt()
    async with ledger.transaction() as connection:
        await connection.execute(text("UPDATE cluster SET leader_term = leader_term + 1"))
        beat = await connection.scalar(text("SELECT leader_renew_time FROM cluster"))
    assert not await old.confirm()
    async with ledger.transaction() as connection:
        assert await connection.scalar(text("SELECT leader_renew_time FROM cluster")) == beat


@pytest.mark.parametrize(
    ("heartbeat", "since", "ended"),
    [
        ("now()", "NULL", True),
        ("now()", "now() - interval '11 s'", True),
        ("now()", "now() - interval '9 s'", False),
        ("now() - interval '6 s'", "NULL", False),
        ("now() - interval '4 s'", "NULL", True),
    ],
    ids=["no gap ever", "gap long ago", "gap just now", "gap not told yet", "a short gap"],
)
async def test_no_session_ends_for_a_time_in_which_nobody_could_renew(
    ledger: database.Database, heartbeat: str, since: str, ended: bool
) -> None:
    async with ledger.transaction() as connection:
        for rows in ROWS[:2]:
            await connection.execute(text(rows))
        await connection.execute(text(f"UPDATE cluster SET leader_renew_time = {heartbeat}, renewable_since = {since}"))
    sessions = session_ledger.SessionLedger(ledger, timedelta(seconds=10))
    assert await sessions.end_expired(10) == ([SESSION] if ended else [])


async def test_a_gap_between_heartbeats_is_remembered(url: str, ledger: database.Database) -> None:
    leader = leadership.Leadership(url, "leader")
    assert await leader.attempt()
    since = text("SELECT renewable_since >= leader_renew_time - interval '1 s' FROM cluster")
    assert await leader.confirm()
    async with ledger.transaction() as connection:
        assert await connection.scalar(since) is None
        await connection.execute(text("UPDATE cluster SET leader_renew_time = now() - interval '6 s'"))
    assert await leader.confirm()
    async with ledger.transaction() as connection:
        assert await connection.scalar(since) is True
    await leader.resign()
