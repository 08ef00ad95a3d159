"""What the feeder is told in one look, and batches that go from PENDING to LEASED in one step."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_embedded import EmbeddedPostgres
from podium_scheduler.adapters.sql import (
    batch_ledger,
    database,
    feed_ledger,
    job_ledger,
    leadership,
    migrate,
    session_ledger,
)
from podium_scheduler.app import feeding, records

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEEK = timedelta(days=7)


@dataclass
class Ledger:
    """The ledgers on one Postgres."""

    pool: database.Database
    jobs: job_ledger.JobLedger
    batches: batch_ledger.BatchLedger
    feeds: feed_ledger.FeedLedger
    sessions: session_ledger.SessionLedger

    async def admit(self, batches: int = 2, *, app: str = "default", workload: str = "w") -> UUID:
        job = await self.jobs.admit_at_once(uuid.uuid4(), new_job(batches, app=app, workload=workload))
        assert job is not None
        return job.job_id

    async def session(self, **credits: int) -> UUID:
        session = records.NewSession(uuid.uuid4(), uuid.uuid4(), "test", "test", "0", "", b"")
        await self.sessions.open(session, [])
        await self.sessions.renew([records.Heartbeat(session.session_id, b"", credits)])
        return session.session_id

    async def count(self, query: str) -> int:
        async with self.pool.peek() as connection:
            return int(await connection.scalar(text(query)) or 0)

    async def run(self, statement: str) -> None:
        async with self.pool.transaction() as connection:
            await connection.execute(text(statement))


def new_job(batches: int, *, app: str = "default", workload: str = "w") -> records.NewJob:
    return records.NewJob(
        app, uuid.uuid4(), b"digest", workload, 1, 3, {"k": "v"}, b"", None, "",
        tuple(records.NewBatch(10 * n, 10, b"payload", 1) for n in range(batches)),
    )  # fmt: skip


def slots(job_id: UUID, session_id: UUID, number: int = 1) -> list[feeding.Slot]:
    return [feeding.Slot(job_id, uuid.uuid4().bytes, session_id) for _ in range(number)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ledger]:
    async with EmbeddedPostgres(tmp_path_factory.mktemp("feeds")) as postgres:
        await migrate.upgrade(postgres.url)
        pool = database.Database(postgres.url, pool_size=4)
        made = Ledger(
            pool,
            job_ledger.JobLedger(pool),
            batch_ledger.BatchLedger(pool, WEEK),
            feed_ledger.FeedLedger(pool),
            session_ledger.SessionLedger(pool, WEEK),
        )
        await made.jobs.put_app("default")
        await made.jobs.put_app("other")
        yield made
        await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(served: Ledger) -> Ledger:
    await served.run("TRUNCATE jobs, sessions CASCADE")
    await served.run("UPDATE apps SET max_waiting_items = 0, weight = 1")
    return served


async def test_where_nothing_waits_only_what_is_in_flight_is_known(ledger: Ledger) -> None:
    session_id = await ledger.session(w=4)
    assert await ledger.feeds.outlook() == feeding.Outlook([], {}, {}, [], {}, {})
    await ledger.feeds.lease(slots(await ledger.admit(1), session_id))
    assert await ledger.feeds.outlook() == feeding.Outlook([], {"w": 0}, {"w": 10}, [], {}, {})


async def test_a_look_tells_what_three_questions_told(ledger: Ledger) -> None:
    await ledger.session(w=4, v=2)
    await ledger.session(w=1)
    job_id = await ledger.admit(3)
    await ledger.batches.feed({job_id: 1})
    await ledger.admit(1, workload="x")
    found = await ledger.feeds.outlook()
    assert sorted(found.waiting) == ["w", "x"] == await ledger.batches.waiting_workloads()
    assert (found.credits["w"], found.credits["v"], found.in_flight["w"]) == (5, 2, 10)
    assert found.queued == ["w"]


async def test_a_job_that_is_alone_is_told_as_the_candidates_would_tell_it(ledger: Ledger) -> None:
    await ledger.run("UPDATE apps SET weight = 5 WHERE app_id = 'default'")
    job_id = await ledger.admit(3)
    await ledger.batches.feed({job_id: 1})
    (candidate,), weights = await ledger.batches.candidates("w", 4)
    found = await ledger.feeds.outlook()
    assert replace(found.alone["w"], age=candidate.age) == candidate
    assert found.weights == weights == {"default": 5}


async def test_of_two_jobs_none_is_alone(ledger: Ledger) -> None:
    await ledger.admit(1)
    await ledger.admit(1, app="other")
    assert (await ledger.feeds.outlook()).alone == {}


async def test_a_job_that_waits_out_its_backoff_is_no_candidate(ledger: Ledger) -> None:
    await ledger.admit(1)
    await ledger.run("UPDATE batches SET not_before = now() + interval '1 h'")
    found = await ledger.feeds.outlook()
    assert (found.waiting, found.alone) == (["w"], {})


async def test_the_next_batches_go_to_their_sessions_and_the_job_starts(ledger: Ledger) -> None:
    one, other = await ledger.session(w=1), await ledger.session(w=1)
    job_id = await ledger.admit(3)
    taken = await ledger.feeds.lease([*slots(job_id, one), *slots(job_id, other)])
    by_place = sorted(taken, key=lambda b: b.first_item)
    assert [(b.first_item, b.session_id, b.attempt, b.payload) for b in by_place] == [
        (0, one, 1, b"payload"),
        (10, other, 1, b"payload"),
    ]
    assert all(b.job_starts for b in taken)
    job = await ledger.jobs.job("default", job_id)
    assert job is not None and job.state == "RUNNING" and job.start_time is not None
    assert await ledger.count("SELECT batches_pending FROM jobs") == 1
    (last,) = await ledger.feeds.lease(slots(job_id, one, 2))
    assert not last.job_starts
    assert await ledger.count("SELECT count(*) FROM jobs WHERE feedable") == 0
    done = [
        records.Completion(b.batch_id, b.lease_token, job_id, b.first_item, b.item_count, 0, 0) for b in (*taken, last)
    ]
    assert len(await ledger.batches.complete(done)) == 3


@pytest.mark.parametrize("end", ["UPDATE sessions SET state = 'ENDED'", "UPDATE sessions SET state = 'BROKEN'"])
async def test_a_session_that_is_over_gets_nothing_and_takes_nothing_away(ledger: Ledger, end: str) -> None:
    session_id, job_id = await ledger.session(w=1), await ledger.admit(2)
    await ledger.run(end)
    assert await ledger.feeds.lease(slots(job_id, session_id)) == []
    assert await ledger.count("SELECT count(*) FROM batches WHERE state = 'PENDING'") == 2
    assert await ledger.count("SELECT batches_pending FROM jobs WHERE state = 'PENDING'") == 2


async def test_nothing_of_a_cancelled_job_is_leased(ledger: Ledger) -> None:
    session_id, job_id = await ledger.session(w=1), await ledger.admit(2)
    await ledger.jobs.cancel("default", job_id, WEEK)
    assert await ledger.feeds.lease(slots(job_id, session_id)) == []


async def test_a_job_over_its_apps_quota_is_not_admitted_at_once(ledger: Ledger) -> None:
    await ledger.run("UPDATE apps SET max_waiting_items = 30 WHERE app_id = 'default'")
    await ledger.admit(2)
    assert await ledger.jobs.admit_at_once(uuid.uuid4(), new_job(2)) is None
    assert await ledger.jobs.admit_at_once(uuid.uuid4(), new_job(1)) is not None
    assert await ledger.count("SELECT count(*) FROM batches") == 3


async def test_an_unknown_app_and_a_known_request_are_not_admitted_at_once(ledger: Ledger) -> None:
    assert await ledger.jobs.admit_at_once(uuid.uuid4(), new_job(1, app="nobody")) is None
    new = new_job(2)
    job = await ledger.jobs.admit_at_once(uuid.uuid4(), new)
    assert job is not None and (await ledger.jobs.job("default", job.job_id)) == job
    assert await ledger.jobs.admit_at_once(uuid.uuid4(), new) is None
    assert await ledger.jobs.admit(uuid.uuid4(), new) == (job, True)
    assert await ledger.count("SELECT count(*) FROM batches") == 2


async def test_a_job_is_admitted_with_its_first_batches_at_their_workers(ledger: Ledger) -> None:
    one, other = await ledger.session(w=1), await ledger.session(w=1)
    job_id, new = uuid.uuid4(), replace(new_job(3), options=b"o", traceparent="t", completion_window=WEEK)
    admitted = await ledger.feeds.admit(job_id, new, [*slots(job_id, one), *slots(job_id, other)])
    assert admitted is not None
    job, leased = admitted
    by_place = sorted(leased, key=lambda b: b.first_item)
    assert [(b.first_item, b.session_id) for b in by_place] == [(0, one), (10, other)]
    assert job == await ledger.jobs.job("default", job_id)
    assert (job.state, job.start_time) == ("RUNNING", job.create_time)
    assert await ledger.count("SELECT batches_pending FROM jobs WHERE feedable") == 1
    # As the ordinary way would have it, but for what that takes of time.
    claims = [records.Claim(b.batch_id, b.lease_token, b.session_id) for b in by_place]
    claimed = sorted(await ledger.batches.claim(claims), key=lambda b: b.first_item)
    assert [replace(b, job_starts=True, waited_s=0.0) for b in claimed] == by_place
    (last,) = await ledger.feeds.lease(slots(job_id, one))
    done = [
        records.Completion(b.batch_id, b.lease_token, job_id, b.first_item, b.item_count, 0, 0)
        for b in (*by_place, last)
    ]
    assert len(await ledger.batches.complete(done)) == 3
    assert await ledger.count("SELECT count(*) FROM jobs WHERE state = 'COMPLETED'") == 1


async def test_a_batch_whose_session_is_over_waits_after_admission(ledger: Ledger) -> None:
    gone, here = await ledger.session(w=1), await ledger.session(w=1)
    await ledger.run(f"UPDATE sessions SET state = 'ENDED' WHERE session_id = '{gone}'")
    job_id = uuid.uuid4()
    admitted = await ledger.feeds.admit(job_id, new_job(2), [*slots(job_id, gone), *slots(job_id, here)])
    assert admitted is not None
    assert [(b.first_item, b.session_id) for b in admitted[1]] == [(0, here)]
    assert await ledger.count("SELECT batches_pending FROM jobs WHERE state = 'RUNNING' AND feedable") == 1
    admitted = await ledger.feeds.admit(other := uuid.uuid4(), new_job(1), slots(other, gone))
    assert admitted is not None and (admitted[0].state, admitted[1]) == ("PENDING", [])
    assert await ledger.count("SELECT batches_pending FROM jobs WHERE state = 'PENDING' AND feedable") == 1


async def test_under_an_old_term_a_job_is_admitted_and_nothing_of_it_leased(ledger: Ledger) -> None:
    session_id = await ledger.session(w=1)
    refusals: list[None] = []
    term = await ledger.count("SELECT leader_term FROM cluster")
    for wrong, job_id in ((0, uuid.uuid4()), (1, uuid.uuid4())):
        fence = leadership.fence(term + wrong, lambda: refusals.append(None))
        feeds = feed_ledger.FeedLedger(ledger.pool.under(fence))
        admitted = await feeds.admit(job_id, new_job(1), slots(job_id, session_id))
        assert admitted is not None
        assert (len(admitted[1]), len(refusals)) == (1 - wrong, wrong)
    assert await ledger.count("SELECT count(*) FROM batches WHERE state = 'PENDING'") == 1


async def test_what_is_not_admitted_at_once_is_not_admitted_to_a_worker(ledger: Ledger) -> None:
    session_id, new = await ledger.session(w=1), new_job(1)
    await ledger.jobs.admit(uuid.uuid4(), new)
    await ledger.run("UPDATE apps SET max_waiting_items = 5 WHERE app_id = 'other'")
    for refused in (new, new_job(1, app="nobody"), new_job(1, app="other")):
        job_id = uuid.uuid4()
        assert await ledger.feeds.admit(job_id, refused, slots(job_id, session_id)) is None
    assert await ledger.count("SELECT count(*) FROM batches") == 1
