"""What is over leaves the ledger in bounded steps, delays nobody, and answers as before while its record is kept."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    database,
    job_ledger,
    migrate,
    operator_ledger,
    session_ledger,
)
from podium_scheduler.app import janitor, records, revocation, worker_sessions
from podium_scheduler.domain import jobs
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEEK, MONTH = timedelta(days=7), timedelta(days=30)
MAX_BATCHES, MAX_PAYLOAD_BYTES = 1_000, 32 << 20

_OVER = text("""
    WITH given AS (
        SELECT CAST(:batches AS int) AS batches, CAST(:failed AS int) AS failed, CAST(:released AS bool) AS released,
            now() - CAST(:age AS interval) AS finish
    ), job AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_finished, items_succeeded, items_failed, items_released, feedable,
            create_time, finish_time, expire_time)
        SELECT :job_id, 'default', :request_id, 'digest', 'hash-384', 1, 3, '', 'COMPLETED', batches, batches,
            batches, batches - failed, failed, CASE WHEN released THEN batches ELSE 0 END, false,
            finish - interval '1 s', finish, finish + CAST(:retention AS interval)
        FROM given
        RETURNING job_id
    )
    INSERT INTO batches (job_id, first_item, item_count, state, attempt, finish_time, payload, payload_encoding,
                         failure_reason, failure_message, items_succeeded)
    SELECT job_id, n, 1, CASE WHEN n < failed THEN 'FAILED' WHEN released THEN 'DELIVERED' ELSE 'COMPLETED' END, 1,
        finish, CASE WHEN released THEN NULL ELSE CAST(repeat('x', :payload) AS bytea) END, 1,
        CASE WHEN n < failed THEN 'EXECUTOR_CRASHED' END, CASE WHEN n < failed THEN 'poison' END,
        CAST(n >= failed AS int)
    FROM job, given, generate_series(0, batches - 1) AS n
""")


@dataclass
class Ledger:
    """All ledgers on one database."""

    database: database.Database
    jobs: job_ledger.JobLedger
    batches: batch_ledger.BatchLedger
    archive: archive_ledger.ArchiveLedger
    operator: operator_ledger.OperatorLedger
    sessions: session_ledger.SessionLedger

    async def over(
        self, batches: int, *, released: bool = True, failed: int = 0, age: timedelta = timedelta(0), payload: int = 10
    ) -> UUID:
        """A job of one-item batches that finished `age` ago; the first `failed` have failed."""
        job_id = uuid.uuid4()
        values = {
            "job_id": job_id, "request_id": uuid.uuid4(), "batches": batches, "released": released, "failed": failed,
            "age": age, "retention": WEEK, "payload": payload,
        }  # fmt: skip
        async with self.database.transaction() as connection:
            await connection.execute(_OVER, values)
        return job_id

    async def count(self, table: str, job_id: UUID) -> int:
        async with self.database.transaction() as connection:
            statement = text(f"SELECT count(*) FROM {table} WHERE job_id = :job_id")
            return int(await connection.scalar(statement, {"job_id": job_id}) or 0)

    async def job(self, job_id: UUID) -> records.Job:
        found = await self.jobs.job("default", job_id)
        assert found is not None
        return found

    async def step(self, job_ids: Sequence[UUID] | None = None) -> records.ArchiveStep:
        chosen = await self.archive.due(50) if job_ids is None else job_ids
        return await self.archive.archive(chosen, max_batches=MAX_BATCHES, max_payload_bytes=MAX_PAYLOAD_BYTES)

    async def admit(self, batches: int, request_id: UUID | None = None) -> UUID:
        new = records.NewJob(
            "default", request_id or uuid.uuid4(), b"digest", "hash-384", 1, 3, {}, b"", None, "",
            tuple(records.NewBatch(n, 1, b"payload", 1) for n in range(batches)),
        )  # fmt: skip
        return (await self.jobs.admit(uuid.uuid4(), new))[0].job_id

    async def claimed(self, job_id: UUID, count: int) -> list[records.Leased]:
        """Feeds and claims batches of a job."""
        session = records.NewSession(uuid.uuid4(), uuid.uuid4(), "test", "test", "0", "", b"")
        await self.sessions.open(session, [])
        fed = (await self.batches.feed({job_id: count}))[job_id]
        claims = [records.Claim(batch_id, uuid.uuid4().bytes, session.session_id) for batch_id in fed]
        return await self.batches.claim(claims)

    async def finish(self, leased: Sequence[records.Leased]) -> set[int]:
        return await self.batches.complete(
            [records.Completion(b.batch_id, b.lease_token, b.job_id, b.first_item, b.item_count, 0, 0) for b in leased]
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Ledger]:
    async with shared_postgres.migrated() as postgres:
        pool = database.Database(postgres.url, pool_size=4)
        made = Ledger(
            pool,
            job_ledger.JobLedger(pool),
            batch_ledger.BatchLedger(pool, WEEK),
            archive_ledger.ArchiveLedger(pool),
            operator_ledger.OperatorLedger(pool),
            session_ledger.SessionLedger(pool, WEEK),
        )
        await made.jobs.put_app("default")
        yield made
        await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(served: Ledger) -> Ledger:
    async with served.database.transaction() as connection:
        await connection.execute(text("TRUNCATE jobs CASCADE"))
    return served


@dataclass
class Results:
    """Redis' side: notes what is dropped, and how many batches the ledger had then."""

    ledger: Ledger
    dropped: list[tuple[UUID, int]] = field(default_factory=list)

    async def drop_results(self, job_ids: Sequence[UUID]) -> None:
        for job_id in job_ids:
            self.dropped.append((job_id, await self.ledger.count("batches", job_id)))


class Silence:
    async def replicas(self, kind: str, **fields: object) -> None: ...
    async def job_changed(self, changes: Sequence[tuple[UUID, str]]) -> None: ...
    async def deliveries(self, group_ids: Sequence[int]) -> None: ...


def cleaner(ledger: Ledger, results: Results, retention: janitor.Retention | None = None) -> janitor.Janitor:
    revoke = revocation.Revocation(worker_sessions.SessionRegistry(), Silence())
    kept = retention or janitor.Retention(WEEK, MONTH)
    return janitor.Janitor(ledger.jobs, ledger.archive, ledger.sessions, results, revoke, kept)  # type: ignore[arg-type]


async def test_the_schema_is_what_the_migrations_make(served: Ledger) -> None:
    url = served.database.engine.url.render_as_string(hide_password=False)
    await migrate.check(url)
    await migrate.downgrade(url, "0001")
    await migrate.upgrade(url)
    await migrate.check(url)


async def test_a_job_of_many_batches_leaves_in_bounded_steps_and_answers_as_before(ledger: Ledger) -> None:
    job_id = await ledger.over(2_500)
    before = await ledger.job(job_id)
    steps = [await ledger.step() for _ in range(4)]
    assert [step.batches for step in steps] == [1_000, 1_000, 500, 0]
    assert [step.jobs for step in steps] == [(), (), (job_id,), ()]
    assert await ledger.count("batches", job_id) == 0
    assert await ledger.job(job_id) == before
    assert await ledger.jobs.release("default", job_id, 2_500, 100) == (before, False)
    assert await ledger.admit(1, before.request_id) == job_id
    assert await ledger.jobs.list_jobs("default", records.JobFilter(), None, 10) == [before]
    ended = await ledger.jobs.cancel("default", job_id, WEEK)
    assert ended is not None and ended.job == before


async def test_a_step_is_bounded_in_bytes_too(ledger: Ledger) -> None:
    job_id = await ledger.over(5, released=False, age=WEEK, payload=1 << 20)
    moved: list[int] = []
    while not moved or moved[-1]:
        due = await ledger.archive.due(50)
        moved.append((await ledger.archive.archive(due, max_batches=1_000, max_payload_bytes=2 << 20)).batches)
    assert moved == [2, 2, 1, 0]
    assert await ledger.count("batches", job_id) == 0


async def test_one_payload_that_is_larger_than_a_step_leaves_all_the_same(ledger: Ledger) -> None:
    job_id = await ledger.over(1, released=False, age=WEEK, payload=1 << 20)
    step = await ledger.archive.archive(await ledger.archive.due(50), max_batches=10, max_payload_bytes=1)
    assert step == records.ArchiveStep(1, (job_id,))


async def test_unread_results_wait_for_their_retention_and_no_longer(ledger: Ledger) -> None:
    fresh = await ledger.over(3, released=False, age=WEEK - timedelta(minutes=5))
    old = await ledger.over(3, released=False, age=WEEK)
    results = Results(ledger)
    await cleaner(ledger, results).round()
    assert await ledger.count("batches", fresh) == 3
    assert not (await ledger.job(fresh)).results_expired
    assert (await ledger.job(old)).results_expired
    # Redis first: had the janitor been killed after the batches, nobody would have looked for the results again.
    assert results.dropped == [(old, 3)]
    assert await ledger.count("batches", old) == 0


async def test_what_has_expired_can_be_neither_released_nor_computed_again(ledger: Ledger) -> None:
    job_id = await ledger.over(4, released=False, age=WEEK)
    completed = await ledger.batches.completed_of(job_id)
    assert await ledger.batches.jobs_with_results(UUID(int=0), 10) == [job_id]
    assert await ledger.archive.due(50) == [job_id]
    before = await ledger.job(job_id)
    assert before.results_expired
    assert await ledger.jobs.release("default", job_id, 2, 100) == (before, False)
    assert await ledger.batches.recompute(job_id, list(completed.values())) == 0
    assert await ledger.batches.jobs_with_results(UUID(int=0), 10) == []
    assert await ledger.job(job_id) == before


async def test_released_archived_and_unknown_jobs_are_over_for_readers(ledger: Ledger) -> None:
    unread = await ledger.over(2, released=False, age=timedelta(0))
    released = await ledger.over(2, age=timedelta(0))
    unknown = UUID(int=5)
    assert set(await ledger.archive.over_among([unread, released, unknown])) == {released, unknown}


async def test_failures_are_told_after_their_batches_have_left(ledger: Ledger) -> None:
    job_id = await ledger.over(10, failed=3)
    other = await ledger.over(2, failed=2, released=False)
    before = await ledger.operator.failures("", None, 10)
    listed = [b for b in await ledger.jobs.list_batches(job_id, 0, 10) if b.failure_reason]
    assert (await ledger.step()).jobs == (job_id,)
    assert await ledger.operator.failures("", None, 10) == before
    assert {f.job_id for f in before} == {job_id, other}
    assert await ledger.jobs.list_batches(job_id, 0, 10) == listed
    assert await ledger.jobs.list_batches(job_id, 1, 1) == listed[1:2]
    pages: list[tuple[datetime, int]] = []
    while page := await ledger.operator.failures("hash-384", pages[-1] if pages else None, 1):
        pages.append((page[0].finish_time, page[0].batch_id))
    assert pages == [(f.finish_time, f.batch_id) for f in before]


async def test_records_go_when_their_own_retention_ends_failures_first(ledger: Ledger) -> None:
    kept = await ledger.over(2, age=MONTH - timedelta(minutes=5))
    gone = await ledger.over(25, failed=25, age=MONTH)
    assert set((await ledger.step()).jobs) == {kept, gone}
    removed = [await ledger.archive.remove(MONTH, max_jobs=10, max_failures=10) for _ in range(4)]
    assert removed == [[], [], [gone], []]
    assert await ledger.jobs.job("default", gone) is None
    assert (await ledger.job(kept)).state is jobs.State.COMPLETED


async def test_an_unarchived_job_is_not_removed_however_old(ledger: Ledger) -> None:
    job_id = await ledger.over(5, age=2 * MONTH)
    assert await ledger.archive.remove(MONTH, max_jobs=10, max_failures=10) == []
    assert await ledger.count("batches", job_id) == 5


async def test_claims_and_completions_go_on_while_a_step_is_open(ledger: Ledger) -> None:
    await ledger.over(50)
    job_id = await ledger.admit(4)
    async with ledger.database.transaction() as connection:
        due = {"job_ids": await ledger.archive.due(50)}
        await connection.execute(archive_ledger._LOCK_DUE, due)
        bounds = {"max_batches": MAX_BATCHES, "max_payload_bytes": MAX_PAYLOAD_BYTES}
        assert await connection.scalar(archive_ledger._MOVE, due | bounds) == 50
        async with asyncio.timeout(10):
            leased = await ledger.claimed(job_id, 4)
            assert await ledger.finish(leased) == {b.batch_id for b in leased}
    assert (await ledger.job(job_id)).state is jobs.State.COMPLETED


async def test_a_step_passes_over_what_somebody_holds(ledger: Ledger) -> None:
    held, free = await ledger.over(5), await ledger.over(5)
    async with ledger.database.transaction() as connection:
        await connection.execute(text("SELECT FROM jobs WHERE job_id = :job FOR UPDATE"), {"job": held})
        async with asyncio.timeout(10):
            assert (await ledger.step([held, free])).jobs == (free,)
            assert await ledger.archive.due(50) == []
    assert (await ledger.step()).jobs == (held,)


async def test_a_step_locks_what_it_moves_and_no_more(ledger: Ledger) -> None:
    for _ in range(5):
        await ledger.over(20)
    free = []

    async def look(_: AsyncConnection) -> None:
        async with ledger.database.transaction() as other:
            statement = text("SELECT count(*) FROM (SELECT FROM batches FOR UPDATE SKIP LOCKED) AS free")
            free.append(await other.scalar(statement))

    watched = archive_ledger.ArchiveLedger(ledger.database.under(look))
    due = await ledger.archive.due(50)
    step = await watched.archive(due, max_batches=10, max_payload_bytes=MAX_PAYLOAD_BYTES)
    assert step.batches == 10
    assert free == [90]


async def test_another_janitor_goes_on_where_one_was_stopped(ledger: Ledger) -> None:
    job_id = await ledger.over(2_500, released=False, age=WEEK)
    results = Results(ledger)
    await cleaner(ledger, results).round()
    assert await ledger.count("batches", job_id) == 1_500
    other = cleaner(ledger, results)
    while await other.round() < janitor._INTERVAL_S:
        pass
    assert await ledger.count("batches", job_id) == 0
    assert [left for _, left in results.dropped] == [2_500, 1_500, 500]


async def test_jobs_that_wait_or_run_are_left_alone(ledger: Ledger) -> None:
    job_id = await ledger.admit(3)
    leased = await ledger.claimed(job_id, 2)
    await ledger.finish(leased[:1])
    assert await ledger.archive.due(50) == []
    assert await ledger.step([job_id]) == records.ArchiveStep(0, ())
    assert await ledger.count("batches", job_id) == 3


async def test_only_active_jobs_are_counted(ledger: Ledger) -> None:
    await ledger.over(3)
    await ledger.admit(2)
    assert (await ledger.batches.counts())[0] == {"PENDING": 1, "RUNNING": 0}


async def _let_deadlines_pass(ledger: Ledger) -> None:
    async with ledger.database.transaction() as connection:
        await connection.execute(text("UPDATE jobs SET deadline = now() - interval '1 s'"))


async def test_deadlines_that_pass_together_end_their_jobs_in_bounded_steps(ledger: Ledger) -> None:
    admitted = {await ledger.admit(4) for _ in range(3)}
    await _let_deadlines_pass(ledger)
    steps = []
    while ended := await ledger.jobs.expire_due(WEEK, max_jobs=10, max_batches=5):
        steps.append({one.job.job_id for one in ended})
    assert [len(step) for step in steps] == [2, 1]
    assert set.union(*steps) == admitted


async def test_a_janitor_expires_one_step_after_the_other_without_a_rest(ledger: Ledger) -> None:
    admitted = [await ledger.admit(janitor._MAX_BATCHES) for _ in range(2)]
    await _let_deadlines_pass(ledger)
    one = cleaner(ledger, Results(ledger))
    while await one.round() < janitor._INTERVAL_S:
        pass
    assert [(await ledger.job(job_id)).state for job_id in admitted] == [jobs.State.EXPIRED] * 2


async def test_a_job_that_was_completed_in_time_is_computed_again_after_its_deadline(ledger: Ledger) -> None:
    """Its result was lost, or shed to make room for others: neither is the client's delay."""
    job_id = await ledger.admit(2)
    leased = await ledger.claimed(job_id, 2)
    await ledger.finish(leased)
    await _let_deadlines_pass(ledger)
    await ledger.batches.recompute(job_id, [leased[0].batch_id])
    assert await ledger.jobs.expire_due(WEEK, max_jobs=10, max_batches=100) == []
    await ledger.finish(await ledger.claimed(job_id, 2))
    assert (await ledger.job(job_id)).state is jobs.State.COMPLETED


async def test_a_large_release_takes_bounded_steps(ledger: Ledger) -> None:
    job_id = await ledger.over(10, released=False)
    places = []
    more = True
    while more:
        job, more = await ledger.jobs.release("default", job_id, 9, 4)
        assert job is not None
        places.append(job.items_released)
    assert places == [4, 8, 9]


async def test_steps_of_a_release_go_on_behind_what_is_not_finished(ledger: Ledger) -> None:
    job_id = await ledger.over(10, released=False)
    first = (await ledger.batches.completed_of(job_id))[0]
    await ledger.batches.recompute(job_id, [first])
    left = [await ledger.jobs.release("default", job_id, 10, 4) for _ in range(3)]
    assert [more for _, more in left] == [True, True, False]
    assert list(await ledger.batches.completed_of(job_id)) == []


async def test_what_nobody_can_serve_fails_in_bounded_steps(ledger: Ledger) -> None:
    admitted = {await ledger.admit(4) for _ in range(2)}
    steps = []
    while changed := await ledger.batches.give_up_waiting("hash-384", "no model", max_jobs=10, max_batches=3):
        steps.append(sum([(await ledger.job(job_id)).items_failed for job_id in admitted]))
        assert admitted >= set(changed)
    assert steps == [3, 6, 8]
    assert {(await ledger.job(job_id)).state for job_id in admitted} == {jobs.State.COMPLETED}
