"""The autoscaler's memory, and pods' join tokens on the wire, in a real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from podium.worker.v1 import worker_pb2, worker_pb2_grpc
from podium_runtime import auth, ids
from podium_scheduler.adapters.sql import database, pod_ledger, scaling_ledger
from podium_scheduler.app import join_tokens, records
from podium_scheduler.domain import pods, room
from tests.support import shared_postgres, stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

_JOB = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
        item_count, batch_count, items_succeeded, feedable, budget_micro_usd, batches_pending)
    VALUES (:job_id, 'app', gen_random_uuid(), '', 'minilm', 1, 3, '', 'RUNNING', 100, 1, :done, true, :budget, 1)
""")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=4)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def ledger(pool: database.Database) -> scaling_ledger.ScalingLedger:
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE autoscaling, pod_decisions, throughputs, jobs, pods CASCADE"))
    return scaling_ledger.ScalingLedger(pool)


async def test_limits_are_what_was_set_last(ledger: scaling_ledger.ScalingLedger) -> None:
    assert await ledger.limits() is None
    for limits in (records.ScalingLimits(), records.ScalingLimits(True, 1, 3, Decimal("1.5"), Decimal("20"))):
        await ledger.set_limits(limits)
        assert await ledger.limits() == limits


async def test_decisions_of_a_workload_and_those_for_all_newest_first_and_not_for_ever(
    ledger: scaling_ledger.ScalingLedger,
) -> None:
    pod_id = uuid.uuid4()
    await ledger.decide([records.Decision("minilm", "Spawn", "first"), records.Decision("clip", "Wait", "other")])
    await ledger.decide([records.Decision("", "Drain", "for all", pod_id)])
    found = await ledger.decisions("minilm", 10)
    assert [(d.kind, d.reason, d.pod_id) for d in found] == [("Drain", "for all", pod_id), ("Spawn", "first", None)]
    assert all(d.time is not None and datetime.now(UTC) - d.time < timedelta(minutes=1) for d in found)
    await ledger.decide([records.Decision("minilm", "Wait", str(n)) for n in range(500)])
    kept = await ledger.decisions("minilm", 1_000)
    assert [d.reason for d in kept[:2]] == ["499", "498"] and len(kept) == 200 + 2
    assert kept[-1].reason == "first", "what was done outlasts what was only said"
    assert len(await ledger.decisions("clip", 10)) == 2


async def test_throughputs_are_means_in_which_the_newest_weighs(ledger: scaling_ledger.ScalingLedger) -> None:
    await ledger.record_throughputs([records.Throughput("minilm", "L4", 100.0, 3)])
    await ledger.record_throughputs([records.Throughput("minilm", "L4", 200.0, 2)])
    await ledger.record_throughputs([records.Throughput("clip", "L4", 7.0)])
    clip, minilm = await ledger.throughputs()
    assert clip == records.Throughput("clip", "L4", 7.0, 1)
    assert (minilm.workload, minilm.batch_count) == ("minilm", 5)
    assert minilm.items_per_s == pytest.approx(110.0)


async def test_work_is_summed_up_by_when_it_is_due(
    ledger: scaling_ledger.ScalingLedger, pool: database.Database
) -> None:
    insert = text("""
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, items_succeeded, feedable, deadline, create_time, finish_time)
        VALUES (gen_random_uuid(), 'app', gen_random_uuid(), '', :workload, 1, 3, '', :state, :items, 1, :done, false,
            now() + CAST(:due AS interval), now() - CAST(:age AS interval),
            CASE WHEN :state = 'CANCELLED' THEN now() END)
    """)
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app') ON CONFLICT DO NOTHING"))
        for workload, state, items, done, due, age in (
            ("minilm", "PENDING", 100, 0, timedelta(hours=20), timedelta(0)),
            ("minilm", "RUNNING", 100, 40, timedelta(hours=21), timedelta(0)),
            ("minilm", "PENDING", 7, 0, timedelta(minutes=5), timedelta(0)),
            ("minilm", "RUNNING", 5, 5, timedelta(minutes=5), timedelta(0)),
            ("minilm", "CANCELLED", 5, 0, timedelta(minutes=5), timedelta(0)),
            ("clip", "PENDING", 10, 0, None, timedelta(seconds=1)),
            ("clip", "PENDING", 20, 0, None, timedelta(hours=5)),
        ):
            values = {"workload": workload, "state": state, "items": items, "done": done, "due": due, "age": age}
            await connection.execute(insert, values)
    found = await ledger.demands({})
    assert [(row.workload, row.items, row.due is None) for row in found] == [
        ("clip", 20, True), ("clip", 10, True), ("minilm", 7, False), ("minilm", 160, False),
    ]  # fmt: skip
    assert found[0].since < found[1].since


async def test_jobs_with_a_budget_are_told_one_by_one(
    pool: database.Database, ledger: scaling_ledger.ScalingLedger
) -> None:
    first, second, free = (uuid.UUID(int=n) for n in (1, 2, 3))
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app') ON CONFLICT DO NOTHING"))
        for job_id, done, budget in ((first, 40, 10_000), (second, 0, 10**12), (free, 1, None)):
            await connection.execute(_JOB, {"job_id": job_id, "done": done, "budget": budget})
    found = await ledger.budgeted({})
    assert [(j.job_id, j.workload, j.items, j.due, j.budget_micro_usd) for j in found] == [
        (first, "minilm", 60, None, 10_000), (second, "minilm", 100, None, 10**12),
    ]  # fmt: skip
    assert [row.items for row in await ledger.demands({})] == [99]


async def test_what_finds_no_room_for_its_results_is_told_apart(
    pool: database.Database, ledger: scaling_ledger.ScalingLedger
) -> None:
    """Ten batches of ten items each."""
    insert = text("""
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, items_succeeded, items_released, batches_finished, batches_pending, feedable,
            budget_micro_usd, create_time)
        VALUES (:job_id, 'app', gen_random_uuid(), '', :workload, 1, 3, '', 'RUNNING', 100, 10, 10 * :finished,
            :released, :finished, 10 - :finished - :queued, true, :budget, now() - interval '1 h')
    """)
    queue = text("""
        INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding, state, queue_time)
        SELECT :job_id, 900 + 10 * n, 10, '', 0, 'QUEUED', now() - interval '1 min'
        FROM generate_series(1, :queued) AS n
    """)
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app') ON CONFLICT DO NOTHING"))
        for workload, finished, released, queued, budget in (
            ("unread", 5, 0, 2, None), ("small", 2, 10, 1, None), ("read", 5, 50, 0, None), ("else", 5, 0, 2, None),
            ("budget", 5, 0, 2, 10_000),
        ):  # fmt: skip
            values = {"job_id": uuid.uuid4(), "workload": workload, "finished": finished, "queued": queued}
            await connection.execute(insert, {**values, "released": released, "budget": budget})
            await connection.execute(queue, {"job_id": values["job_id"], "queued": queued})
    names = ("unread", "small", "read", "budget")

    async def told(tight: room.Tight) -> dict[str, list[tuple[int, bool, int]]]:
        rows: dict[str, list[tuple[int, bool, int]]] = {}
        for row in await ledger.demands(dict.fromkeys(names, tight)):
            waits_min = round((datetime.now(UTC) - row.since).total_seconds() / 60)
            rows.setdefault(row.workload, []).append((row.items, row.held, waits_min))
        return {workload: sorted(found) for workload, found in rows.items()}

    # Four batches are for who holds less; what is in flight has waited since it was fed.
    assert await told(room.Tight(-1, True)) == {
        "unread": [(20, False, 1), (30, True, 60)],
        "small": [(30, False, 1), (50, True, 60)],
        "read": [(10, True, 60), (40, False, 60)],
        "else": [(50, False, 60)],
    }
    assert await told(room.Tight(-1, False)) == {
        "unread": [(20, False, 1), (30, True, 60)],
        "small": [(10, False, 1), (70, True, 60)],
        "read": [(50, True, 60)],
        "else": [(50, False, 60)],
    }
    assert await told(room.Tight(49, True)) == {
        "unread": [(20, False, 1), (30, True, 60)],
        "small": [(80, False, 60)],
        "read": [(50, False, 60)],
        "else": [(50, False, 60)],
    }
    (job,) = await ledger.budgeted({"budget": room.Tight(-1, True)})
    assert (job.items, job.held) == (50, 30)
    (job,) = await ledger.budgeted({})
    assert (job.items, job.held) == (50, 0)


@pytest.mark.parametrize("budget", [9_999, 10**12 + 1, 0, -1])
async def test_no_other_budget_gets_into_the_ledger(
    pool: database.Database, ledger: scaling_ledger.ScalingLedger, budget: int
) -> None:
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app') ON CONFLICT DO NOTHING"))
    with pytest.raises(IntegrityError, match="ck_jobs_budget_micro_usd"):
        async with pool.transaction() as connection:
            await connection.execute(_JOB, {"job_id": uuid.uuid4(), "done": 0, "budget": budget})


async def test_a_pods_token_lets_its_worker_in_and_nobody_else(
    pool: database.Database, ledger: scaling_ledger.ScalingLedger, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with stack.servers(tmp_path_factory.mktemp("join")) as running:
        await running.start("scheduler")
        own = database.Database(running.postgres.url, pool_size=2)
        store = pod_ledger.PodLedger(own, timedelta(minutes=5))
        token, pod_id = join_tokens.issue(ids.SystemIds()), uuid.uuid4()
        new = records.NewPod(pod_id, "podium-1", "cloud", "L4", 1, Decimal("0.8"))
        await store.intend([new])
        move = pods.Move(pod_id, pods.State.INTENDED, pods.State.CREATING, join_token_sha256=token.sha256)
        await store.move([move])

        async def join(words: str, worker: uuid.UUID, pod: str) -> str:
            async with grpc.aio.insecure_channel(running.scheduler.address) as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                call = stub.Connect(metadata=auth.authorization(words))
                hello = worker_pb2.Hello(worker_id=str(worker), backends=["hash"], pod_id=pod)
                try:
                    await call.write(worker_pb2.WorkerFrame(hello=hello))
                    frame = await call.read()
                    assert isinstance(frame, worker_pb2.SchedulerFrame)
                    return str(frame.WhichOneof("frame"))
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                finally:
                    call.cancel()

        mine, other = uuid.uuid4(), uuid.uuid4()
        assert await join("f" * 64, mine, str(pod_id)) == "UNAUTHENTICATED", "not its token"
        assert await join(token.words, mine, str(uuid.uuid4())) == "UNAUTHENTICATED", "another pod's"
        assert await join(token.words, mine, "") == "INVALID_ARGUMENT", "no pod's"
        assert await join("guess", mine, str(pod_id)) == "UNAUTHENTICATED", "no token at all"
        assert await join(token.words, mine, str(pod_id)) == "welcome"
        assert await join(token.words, other, str(pod_id)) == "UNAUTHENTICATED", "dead after its first use"
        assert await join(token.words, mine, str(pod_id)) == "welcome", "its own worker comes back"
        found = await store.pod(pod_id)
        assert found is not None and found.worker_id == mine and found.registered_time is not None
        assert token.words not in running.scheduler.log.read_text()
        await own.close()
