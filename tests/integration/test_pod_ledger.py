"""The ledger of pods in a real Postgres: what only Postgres can get wrong."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import TextClause, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_runtime import clock, errors, ids
from podium_scheduler.adapters.sql import database, leadership, migrate, pod_ledger, schema, session_ledger
from podium_scheduler.app import pod_keeper, providers, records
from podium_scheduler.domain import pods
from podium_scheduler.domain.join_tokens import Refusal
from podium_scheduler.domain.pods import Move, Reason, Sighting, State
from tests.support import shared_postgres
from tests.support.clouds.imaginary import Imaginary

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL = timedelta(minutes=20)
SHA = b"s" * 32


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=4)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def empty(pool: database.Database) -> None:
    async with pool.transaction() as connection:
        await connection.execute(text("TRUNCATE pods, sessions CASCADE"))


@pytest.fixture
def ledger(pool: database.Database) -> pod_ledger.PodLedger:
    return pod_ledger.PodLedger(pool, TTL)


async def intend(ledger: pod_ledger.PodLedger, count: int = 1) -> list[pods.Pod]:
    made = [uuid.uuid4() for _ in range(count)]
    return await ledger.intend(
        [records.NewPod(i, pods.name_of("test", i), "imaginary", "L4", 1, Decimal("1.5")) for i in made]
    )


async def start(ledger: pod_ledger.PodLedger) -> pods.Pod:
    (pod,) = await intend(ledger)
    await ledger.move([Move(pod.pod_id, State.INTENDED, State.CREATING, join_token_sha256=SHA)])
    seen = Sighting(f"im-{pod.name}", pod.name)
    await ledger.move([Move(pod.pod_id, State.CREATING, State.STARTING, sighting=seen)])
    return pod


async def test_the_migration_goes_both_ways(pool: database.Database) -> None:
    await migrate.check(pool.url)
    await migrate.downgrade(pool.url, "0008")
    await migrate.upgrade(pool.url)
    await migrate.check(pool.url)


# --- the machine, by the table's own rules ----------------------------------------------------------------

_RULES = text("""
    SELECT conname, replace(pg_get_constraintdef(oid), 'said.', '') FROM pg_constraint
    WHERE connamespace = CAST(:place AS regnamespace) AND conrelid IN (
        SELECT oid FROM pg_class WHERE relname IN ('pods', 'pod_events', 'pod_prices'))
""")
BROKEN = [
    "state = 'RUNNING'",
    "end_time = now()",
    "state = 'LOST'",
    "reason = 'IDLE'",
    "state = 'DRAINING', drain_time = now(), ready_time = now()",
    "state = 'READY'",
    "state = 'DESTROYING', reason = 'IDLE'",
    "state = 'FAILED', reason = 'REFUSED', end_time = now()",
    "state = 'CREATING'",
    "state = 'INTENDED', provider_pod_id = '', listed_time = NULL",
    "call_time = NULL",
    "provider_pod_id = ''",
    "provider_pod_id = '', listed_time = NULL",
    "worker_id = gen_random_uuid()",
    "join_token_sha256 = 'short'",
    "join_token_expire_time = NULL",
    "join_token_used_time = now()",
    "price_usd_per_hour = -1",
    "gpu_count = -1",
]


@pytest.mark.parametrize("broken", BROKEN)
async def test_the_table_refuses_what_the_machine_cannot_be(
    pool: database.Database, ledger: pod_ledger.PodLedger, broken: str
) -> None:
    await start(ledger)
    with pytest.raises(exc.IntegrityError, match="violates check constraint"):
        async with pool.transaction() as connection:
            await connection.execute(text(f"UPDATE pods SET {broken}"))


async def test_a_pod_has_one_open_span(pool: database.Database, ledger: pod_ledger.PodLedger) -> None:
    await start(ledger)
    with pytest.raises(exc.IntegrityError, match="ix_pod_prices_open"):
        async with pool.transaction() as connection:
            again = "INSERT INTO pod_prices SELECT pod_id, start_time + interval '1 s', NULL, 1 FROM pod_prices"
            await connection.execute(text(again))


async def test_the_migration_makes_what_the_schema_says(pool: database.Database) -> None:
    """Alembic's check does not look at CHECKs."""
    tables = [schema.pods, schema.pod_events, schema.pod_prices]

    async def rules(connection: AsyncConnection, place: str) -> set[tuple[object, ...]]:
        return {tuple(row) for row in await connection.execute(_RULES, {"place": place})}

    async with pool.engine.connect() as connection:
        await connection.execute(text("CREATE SCHEMA said"))
        said = await connection.execution_options(schema_translate_map={None: "said"})
        await said.run_sync(schema.metadata.create_all, tables, checkfirst=False)
        declared = await rules(connection, "said")
        assert len(declared) > 20
        assert await rules(connection, "public") == declared
        await connection.rollback()


# --- who writes -------------------------------------------------------------------------------------------


async def test_a_leader_of_an_old_term_moves_nothing(pool: database.Database, ledger: pod_ledger.PodLedger) -> None:
    pod = await start(ledger)
    refused: list[bool] = []
    old = pod_ledger.PodLedger(pool.under(leadership.fence(-1, lambda: refused.append(True))), TTL)
    destroy = Move(pod.pod_id, State.STARTING, State.DESTROYING, Reason.IDLE)
    with pytest.raises(errors.Unavailable):
        await old.move([destroy])
    assert refused == [True]
    assert await ledger.move([destroy]) == {pod.pod_id}


async def test_of_two_that_move_a_pod_one_does(ledger: pod_ledger.PodLedger) -> None:
    made = [await start(ledger) for _ in range(5)]
    doom = [Move(pod.pod_id, State.STARTING, State.DESTROYING, Reason.IDLE) for pod in made]
    lose = [Move(pod.pod_id, State.STARTING, State.LOST, Reason.VANISHED) for pod in reversed(made)]
    one, other = await asyncio.gather(ledger.move(doom), ledger.move(lose))
    assert one.isdisjoint(other)
    assert one | other == {pod.pod_id for pod in made}
    for pod in made:
        assert len(await ledger.history(pod.pod_id)) == 4


async def test_a_token_is_redeemed_by_one_of_many_workers(ledger: pod_ledger.PodLedger) -> None:
    pod = await start(ledger)
    workers = [uuid.uuid4() for _ in range(8)]
    answers = await asyncio.gather(*(ledger.redeem(SHA, pod.pod_id, worker) for worker in workers))
    assert sorted(map(str, answers)) == sorted(["None"] + [str(Refusal.USED)] * 7)
    found = await ledger.pod(pod.pod_id)
    assert found is not None
    assert found.worker_id == workers[answers.index(None)]


async def test_a_request_that_comes_twice_at_once_makes_one_pod(ledger: pod_ledger.PodLedger) -> None:
    request_id = uuid.uuid4()

    async def spawn() -> uuid.UUID:
        pod_id = uuid.uuid4()
        new = records.NewPod(
            pod_id, pods.name_of("test", pod_id), "imaginary", "L4", 1, Decimal(1), request_id=request_id
        )
        (pod,) = await ledger.intend([new])
        return pod.pod_id

    assert len(set(await asyncio.gather(*(spawn() for _ in range(4))))) == 1


async def test_a_worker_is_gone_from_the_end_of_its_newest_session(
    pool: database.Database, ledger: pod_ledger.PodLedger
) -> None:
    sessions = session_ledger.SessionLedger(pool, TTL)
    pod, worker_id = await start(ledger), uuid.uuid4()
    assert await ledger.redeem(SHA, pod.pod_id, worker_id) is None

    async def gone_time() -> object:
        (found,) = (await ledger.census()).pods
        return found.worker_gone_time

    registered = (await ledger.census()).pods[0].registered_time
    assert await gone_time() == registered, "it registered and opened no session"
    first, second = (
        records.NewSession(uuid.uuid4(), worker_id, "replica-1", "host", "0", str(pod.pod_id), b"") for _ in range(2)
    )
    await sessions.open(first, [])
    assert await gone_time() is None
    await sessions.mark_broken(first.session_id, TTL)
    assert await gone_time() is None, "it may be back in a moment"
    await sessions.open(second, [])
    assert await gone_time() is None
    await sessions.end(second.session_id)
    async with pool.transaction() as connection:
        ended = await connection.scalar(text("SELECT max(expire_time) FROM sessions"))
    assert await gone_time() == ended
    async with pool.transaction() as connection:
        await connection.execute(text("UPDATE cluster SET renewable_since = now()"))
        back = await connection.scalar(text("SELECT renewable_since FROM cluster"))
    assert await gone_time() == back, "while the ledger was away nobody could be there"


# --- what it costs ----------------------------------------------------------------------------------------

_HISTORY = text("""
    INSERT INTO pods (pod_id, name, provider, provider_pod_id, state, reason, gpu_type, gpu_count, price_usd_per_hour,
                      create_time, call_time, listed_time, destroy_time, end_time)
    SELECT gen_random_uuid(), 'old-' || n, 'imaginary', 'im-old-' || n, 'DESTROYED', 'IDLE', 'L4', 1, 1.5,
           now() - interval '9 days', now() - interval '9 days', now() - interval '9 days', now() - interval '8 days',
           now() - interval '8 days'
    FROM generate_series(1, 20000) AS n
""")
_OLD_SPANS = text("""
    INSERT INTO pod_prices SELECT pod_id, call_time, end_time, price_usd_per_hour FROM pods WHERE name LIKE 'old-%'
""")
_UUIDS = "'{00000000-0000-0000-0000-000000000001}'"
OVER_HISTORY = {
    "census": pod_ledger._CENSUS,
    "census of a provider": pod_ledger._CENSUS_OF,
    "by name": pod_ledger._NAMED,
    "one pod": pod_ledger._POD,
    "by request": pod_ledger._REQUESTED,
    "newest": pod_ledger._NEWEST,
    "history": pod_ledger._HISTORY,
    "spans": pod_ledger._SPANS,
    "spans to start": pod_ledger._START_SPANS,
    "old prices": pod_ledger._END_OLD_PRICES,
}
PARAMETERS = {
    ":provider": "'imaginary'", ":names": "'{a,b}'", ":pod_ids": _UUIDS, ":request_ids": _UUIDS, ":limit": "10",
    ":pod_id": "'00000000-0000-0000-0000-000000000001'", ":start": "now() - interval '1 day'", ":end": "now()",
}  # fmt: skip


def _explain(statement: TextClause) -> TextClause:
    sql = statement.text
    for name in sorted(PARAMETERS, key=len, reverse=True):
        sql = sql.replace(name, PARAMETERS[name])
    return text(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}")


async def test_no_round_reads_history(pool: database.Database, ledger: pod_ledger.PodLedger) -> None:
    await start(ledger)
    async with pool.transaction() as connection:
        for statement in (_HISTORY, _OLD_SPANS, text("ANALYZE pods, pod_prices")):
            await connection.execute(statement)
        for name, statement in OVER_HISTORY.items():
            plan = "\n".join((await connection.scalars(_explain(statement))).all())
            touched = re.findall(r"(?:actual rows=|Rows Removed by Filter: )(\d+)", plan)
            if max(map(int, touched)) > 20:
                pytest.fail(f"{name} reads history:\n{plan}")


@contextmanager
def counted(pool: database.Database) -> Iterator[list[str]]:
    """The statements that are executed meanwhile."""
    said: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(pool.engine.sync_engine, "before_cursor_execute", hear)
    try:
        yield said
    finally:
        event.remove(pool.engine.sync_engine, "before_cursor_execute", hear)


async def test_a_round_is_a_few_statements_however_many_pods_there_are(
    pool: database.Database, ledger: pod_ledger.PodLedger
) -> None:
    time = clock.FakeClock()
    cloud = Imaginary(time)

    def order(pod: pods.Pod, token: str) -> providers.Order:
        return providers.Order(pod.pod_id, pod.name, providers.Offer("imaginary", "L4", 1, 1.5), "image", (), {})

    keeper = pod_keeper.PodKeeper(ledger, cloud, order, ids.SystemIds(), time, pod_keeper.Rules())
    many = await intend(ledger, 1000)
    for pod in many:
        cloud.make(pod.name, 1.5)
    # All of them are listed already, so none is called for.
    with counted(pool) as moving:
        await keeper.run_once()
        await keeper.run_once()
    assert {pod.state for pod in (await ledger.census()).pods} == {State.STARTING}
    with counted(pool) as quiet:
        assert await keeper.run_once() == pod_keeper.Rules().interval_s
    assert (len(moving), len(quiet)) == (8, 2), (moving, quiet)
    assert cloud.calls["create"] == 0
    for machine in cloud.machines:
        machine.price = Decimal("0.5")
    with counted(pool) as dearer:
        await keeper.run_once()
    assert len(dearer) == 5
    now = (await ledger.census()).now
    spans = await ledger.spans(now - timedelta(days=1), now)
    assert len(spans) == 2000


async def test_a_pod_that_ended_is_forgotten_when_no_job_had_it(
    ledger: pod_ledger.PodLedger, pool: database.Database
) -> None:
    unused, used, alive = [await start(ledger) for _ in range(3)]
    job_id = uuid.uuid4()
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app') ON CONFLICT DO NOTHING"))
        await connection.execute(
            text("""
                INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options,
                    state, item_count, batch_count, feedable)
                VALUES (:job_id, 'app', :job_id, '', 'minilm', 1, 3, '', 'RUNNING', 1, 1, false)
            """),
            {"job_id": job_id},
        )
        await connection.execute(
            text("INSERT INTO pod_uses (pod_id, job_id, workload, busy_s) VALUES (:pod_id, :job_id, 'minilm', 1)"),
            {"pod_id": used.pod_id, "job_id": job_id},
        )
    for pod in (unused, used):
        await ledger.move([Move(pod.pod_id, State.STARTING, State.LOST, Reason.VANISHED)])
    assert await ledger.forget_ended(timedelta(days=1), 10) == 0
    assert await ledger.forget_ended(timedelta(0), 10) == 1
    assert [await ledger.pod(one.pod_id) is None for one in (unused, used, alive)] == [True, False, False]
    assert not await ledger.history(unused.pod_id)
    async with pool.transaction() as connection:
        await connection.execute(text("DELETE FROM jobs WHERE job_id = :job_id"), {"job_id": job_id})
    assert await ledger.forget_ended(timedelta(0), 10) == 1
    assert await ledger.forget_ended(timedelta(0), 10) == 0
