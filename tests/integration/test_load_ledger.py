"""Load times and wishes about models, in a real Postgres."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_scheduler.adapters.sql import (
    batch_ledger,
    database,
    job_ledger,
    load_ledger,
    migrate,
    session_ledger,
)
from podium_scheduler.app import records
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL = timedelta(minutes=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=4)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def empty(pool: database.Database) -> None:
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE model_loads, sessions, jobs CASCADE"))


def load(seconds: float, workload: str = "minilm", device: str = "NVIDIA L4", memory: int = 90) -> records.ModelLoad:
    return records.ModelLoad(workload, device, seconds, memory)


async def test_the_migration_goes_both_ways_and_keeps_sessions(pool: database.Database) -> None:
    sessions = session_ledger.SessionLedger(pool, TTL)
    new = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"hello")
    await sessions.open(new, [])
    await migrate.check(pool.url)
    await migrate.downgrade(pool.url, "0007")
    await migrate.upgrade(pool.url)
    await migrate.check(pool.url)
    (found,) = await sessions.placed()
    assert (found.session_id, found.hello, list(found.wanted)) == (new.session_id, b"hello", [])


async def test_the_first_load_is_the_mean_and_newer_ones_weigh_more(pool: database.Database) -> None:
    loads = load_ledger.LoadLedger(pool)
    await loads.record([load(10.0)])
    (first,) = await loads.loads()
    assert (first.load_count, first.mean_s, first.last_s, first.memory_bytes) == (1, 10.0, 10.0, 90)
    await loads.record([load(20.0, memory=80)])
    await loads.record([load(0.0, memory=70)])
    (third,) = await loads.loads()
    assert (third.load_count, third.last_s, third.memory_bytes) == (3, 0.0, 70)
    assert third.mean_s == pytest.approx((10.0 + 0.3 * 10.0) * 0.7)
    assert third.last_time > first.last_time


async def test_a_model_loaded_by_many_devices_at_once_counts_as_often(pool: database.Database) -> None:
    loads = load_ledger.LoadLedger(pool)
    await loads.record([load(1.0)] * 5 + [load(2.0, device="NVIDIA H100"), load(3.0, workload="clip")])
    assert [(x.workload, x.device_name, x.load_count) for x in await loads.loads()] == [
        ("clip", "NVIDIA L4", 1), ("minilm", "NVIDIA H100", 1), ("minilm", "NVIDIA L4", 5),
    ]  # fmt: skip
    assert [x.workload for x in await loads.loads("clip")] == ["clip"]
    assert await loads.loads("nobody-knows") == []


async def test_replicas_that_record_the_same_at_once_lose_nothing(pool: database.Database) -> None:
    loads = load_ledger.LoadLedger(pool)
    names = [f"w{n}" for n in range(10)]
    some = [[load(1.0, workload=name) for name in order] for order in (names, names[::-1]) * 4]
    await asyncio.gather(*(loads.record(each) for each in some))
    assert [x.load_count for x in await loads.loads()] == [8] * 10


async def test_what_is_wanted_of_a_worker_outlives_its_stream(pool: database.Database) -> None:
    sessions = session_ledger.SessionLedger(pool, TTL)
    new = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"")
    await sessions.open(new, [])
    await sessions.want({new.session_id: ("minilm", "clip"), uuid.uuid4(): ["e5"]})
    beat = records.Heartbeat(new.session_id, b"status", {})
    assert await sessions.renew([beat]) == {new.session_id: records.Wish(drain=False, wanted=["minilm", "clip"])}
    again = records.NewSession(uuid.uuid4(), new.worker_id, "replica-2", "host", "0", "", b"")
    _, _, standing = await sessions.open(again, [])
    assert standing.wanted == ["minilm", "clip"]
    (found,) = await sessions.placed()
    assert (found.session_id, found.wanted) == (again.session_id, ["minilm", "clip"])
    # Of the session that is over nothing is wanted any more, whoever still says so.
    await sessions.want({new.session_id: ["e5"], again.session_id: []})
    assert (await sessions.placed())[0].wanted == []
    await sessions.want({})


async def test_what_a_worker_has_loaded_is_known_while_it_reconnects(pool: database.Database) -> None:
    """Else each restart of a replica would have its workers' models loaded elsewhere, and end the turns of all."""
    sessions = session_ledger.SessionLedger(pool, TTL)
    new = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"hello")
    await sessions.open(new, [])
    await sessions.renew([records.Heartbeat(new.session_id, b"status", {"minilm": 2})])
    await sessions.mark_broken(new.session_id, TTL / 2)
    assert [(p.session_id, p.status) for p in await sessions.placed()] == [(new.session_id, b"status")]
    await sessions.want({new.session_id: ["minilm"]})
    again = records.NewSession(uuid.uuid4(), new.worker_id, "replica-2", "host", "0", "", b"hello")
    await sessions.open(again, [])
    (found,) = await sessions.placed()
    assert (found.session_id, found.status, found.wanted) == (again.session_id, b"status", ["minilm"])
    await sessions.mark_broken(again.session_id, timedelta(0))
    assert await sessions.placed() == []


async def test_work_is_what_has_no_outcome_whatever_its_batches_are_doing(pool: database.Database) -> None:
    jobs, batches = job_ledger.JobLedger(pool), batch_ledger.BatchLedger(pool, timedelta(days=7))
    sessions = session_ledger.SessionLedger(pool, TTL)
    await jobs.put_app("app-a")
    cut = tuple(records.NewBatch(10 * n, 10, b"payload", 1) for n in range(3))
    new = records.NewJob("app-a", uuid.uuid4(), b"d" * 32, "minilm", 1, 3, {}, b"", None, "", cut)
    job, _ = await jobs.admit(uuid.uuid4(), new)
    worker = records.NewSession(uuid.uuid4(), uuid.uuid4(), "replica-1", "host", "0", "", b"")
    await sessions.open(worker, [])
    fed = (await batches.feed({job.job_id: 2}))[job.job_id]
    (leased,) = await batches.claim([records.Claim(fed[0], b"t" * 16, worker.session_id)])
    # One waits, one is queued, one is leased.
    assert [(w.workload, w.items) for w in await batches.work()] == [("minilm", 30)]
    await batches.complete([records.Completion(leased.batch_id, b"t" * 16, job.job_id, leased.first_item, 10, 0, 0)])
    (left,) = await batches.work()
    assert (left.items, 0 <= left.oldest_age_s < 60) == (20, True)
    await jobs.cancel("app-a", job.job_id, timedelta(days=7))
    assert await batches.work() == []
