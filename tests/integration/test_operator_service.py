"""OperatorService over real gRPC on a real Postgres."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from podium.common.v1 import job_pb2
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_runtime import auth, channels, clock, errors, grpc_server, ids, statuses
from podium_scheduler.adapters.grpc import operator_servicer
from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    cost_ledger,
    database,
    job_ledger,
    leadership,
    load_ledger,
    operator_ledger,
    pod_ledger,
    requeue_ledger,
    scaling_ledger,
    session_ledger,
)
from podium_scheduler.app import draining, job_costs, pods_of_operators, records, requeueing, wakers, worker_sessions
from podium_scheduler.domain.autoscaling import policy
from tests.support import shared_postgres
from tests.support.clouds.imaginary import Imaginary

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "podium.operator.v1.OperatorService"
TOKEN = "operator-secret"
NIL = str(uuid.UUID(int=0))
pb = operator_pb2


class Caller:
    """The stub, with a token on every call."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = operator_pb2_grpc.OperatorServiceStub(channel)
        self._metadata = auth.authorization(token)

    def __getattr__(self, name: str) -> Callable[[Message], Awaitable[Any]]:
        return functools.partial(getattr(self._stub, name), metadata=self._metadata)


@dataclass(slots=True)
class Rig:
    url: str
    ledger: database.Database
    address: str
    call: Caller

    @property
    def dsn(self) -> str:
        return self.url.replace("+asyncpg", "")

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()


class Leads:
    """This replica has the lead."""

    leads = True
    term = 1

    async def attempt(self) -> bool:
        return True

    async def confirm(self) -> bool:
        return True

    async def resign(self) -> None: ...


class Silence:
    """Wake-ups that reach nobody."""

    async def replicas(self, kind: str, **fields: object) -> None: ...
    async def job_changed(self, changes: Sequence[tuple[uuid.UUID, str]]) -> None: ...
    async def deliveries(self, group_ids: Sequence[int]) -> None: ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Rig]:
    async with shared_postgres.migrated() as postgres:
        ledger = database.Database(postgres.url, pool_size=2)
        server = grpc_server.Server(
            "127.0.0.1:0", authenticator=auth.Authenticator({SERVICE: auth.shared_secret("operator", TOKEN)})
        )
        sessions = session_ledger.SessionLedger(ledger, timedelta(seconds=60))
        drains = draining.Draining(worker_sessions.SessionRegistry(), sessions, Silence())
        requeues = requeueing.Requeueing(
            requeue_ledger.RequeueLedger(ledger, timedelta(days=7)), Silence(), wakers.Wakers(Silence(), Leads())
        )
        servicer = operator_servicer.OperatorServicer(
            operator_ledger.OperatorLedger(ledger),
            drains,
            requeues,
            load_ledger.LoadLedger(ledger),
            pods_of_operators.PodsOfOperators(
                pod_ledger.PodLedger(ledger, timedelta(hours=1)),
                scaling_ledger.ScalingLedger(ledger),
                {"imaginary": Imaginary(clock.SystemClock())},
                drains,
                ids.SystemIds(),
                "podium",
                policy.Policy(),
                wakers.Wakers(Silence(), Leads()),
            ),
            job_costs.JobCosts(cost_ledger.CostLedger(ledger)),
            ["hash-384", "minilm"],
        )
        server.add(operator_pb2_grpc.add_OperatorServiceServicer_to_server, servicer, SERVICE)
        address = await server.start()
        async with channels.open_channel(address) as channel:
            yield Rig(postgres.url, ledger, address, Caller(channel, TOKEN))
        await server.stop(0)
        await ledger.close()


@pytest_asyncio.fixture(loop_scope="module")
async def rig(served: Rig) -> Rig:
    """The service on an empty ledger."""
    async with served.sql() as connection:
        await connection.execute(
            "TRUNCATE apps, app_tokens, jobs, batches, sessions, model_loads, pods, autoscaling CASCADE"
        )
    return served


async def refused(call: Awaitable[object]) -> errors.PodiumError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return statuses.from_rpc_error(caught.value)


async def fields(call: Awaitable[object]) -> list[str]:
    error = await refused(call)
    assert isinstance(error, errors.InvalidArgument)
    return [v.field for v in error.violations]


async def open_worker(rig: Rig, credits: dict[str, int], workers: uuid.UUID | None = None) -> records.NewSession:
    hello = worker_pb2.Hello(devices=[worker_pb2.Device(index=0, uuid="cpu", name="A CPU")])
    new = records.NewSession(
        session_id=uuid.uuid4(), worker_id=workers or uuid.uuid4(), replica_id="replica-1", hostname="host-1",
        version="0.1.0", pod_id="", hello=hello.SerializeToString(),
    )  # fmt: skip
    sessions = session_ledger.SessionLedger(rig.ledger, timedelta(seconds=60))
    await sessions.open(new, [])
    status = worker_pb2.Status(total_credits=7).SerializeToString()
    await sessions.renew([records.Heartbeat(new.session_id, status, credits)])
    return new


async def admit(rig: Rig, workload: str, batches: int, app_id: str = "app-a") -> uuid.UUID:
    jobs = job_ledger.JobLedger(rig.ledger)
    await jobs.put_app(app_id)
    cut = tuple(records.NewBatch(10 * n, 10, b"payload", 1) for n in range(batches))
    new = records.NewJob(app_id, uuid.uuid4(), b"d" * 32, workload, 1, 3, {}, b"", None, "", cut)
    job, _ = await jobs.admit(uuid.uuid4(), new)
    return job.job_id


async def fail(rig: Rig, job_id: uuid.UUID, moment: datetime) -> None:
    """What the ledger holds after the scheduler gave all of a job's batches up at one moment."""
    async with rig.sql() as connection:
        await connection.execute(
            "UPDATE batches SET state = 'FAILED', attempt = 5, failure_reason = 'WORKER_LOST',"
            " failure_message = 'five workers were lost', finish_time = $2 WHERE job_id = $1",
            job_id, moment,
        )  # fmt: skip


async def test_apps_are_created_listed_and_changed(rig: Rig) -> None:
    made = (await rig.call.CreateApp(pb.CreateAppRequest(app=pb.App(app_id="search", max_waiting_items=9)))).app
    assert (made.app_id, made.weight, made.max_waiting_items) == ("search", 1, 9)
    assert made.create_time.ToDatetime(UTC) > datetime.now(UTC) - timedelta(minutes=5)
    changed = await rig.call.UpdateApp(pb.UpdateAppRequest(app=pb.App(app_id="search", weight=1000)))
    assert (changed.app.weight, changed.app.max_waiting_items) == (1000, 0)
    assert list((await rig.call.ListApps(pb.ListAppsRequest())).apps) == [changed.app]


async def test_an_app_is_made_once_and_an_unknown_one_is_not_found(rig: Rig) -> None:
    request = pb.CreateAppRequest(app=pb.App(app_id="search"))
    await rig.call.CreateApp(request)
    error = await refused(rig.call.CreateApp(request))
    assert (type(error), error.reason) == (errors.AlreadyExists, "APP_EXISTS")
    error = await refused(rig.call.UpdateApp(pb.UpdateAppRequest(app=pb.App(app_id="nobody", weight=1))))
    assert (type(error), error.reason) == (errors.NotFound, "APP_NOT_FOUND")
    error = await refused(rig.call.CreateAppToken(pb.CreateAppTokenRequest(app_id="nobody")))
    assert (type(error), error.reason) == (errors.NotFound, "APP_NOT_FOUND")


async def test_bad_fields_are_all_named(rig: Rig) -> None:
    call = rig.call
    assert await fields(call.CreateApp(pb.CreateAppRequest())) == ["app"]
    bad = pb.App(app_id="Bad_Name", weight=1001, max_waiting_items=(1 << 64) - 1)
    expected = ["app.app_id", "app.weight", "app.max_waiting_items"]
    assert await fields(call.CreateApp(pb.CreateAppRequest(app=bad))) == expected
    assert await fields(call.UpdateApp(pb.UpdateAppRequest(app=bad))) == expected
    assert await fields(call.UpdateApp(pb.UpdateAppRequest(app=pb.App(app_id="a")))) == ["app.weight"]
    request = pb.CreateAppTokenRequest(app_id="", description="é" * 65)
    assert await fields(call.CreateAppToken(request)) == ["app_id", "description"]
    request = pb.CreateAppTokenRequest(app_id="a", description="a\x00b")
    assert await fields(call.CreateAppToken(request)) == ["description"]
    assert await fields(call.RevokeAppToken(pb.RevokeAppTokenRequest(token_id="x"))) == ["token_id"]
    assert await fields(call.GetWorker(pb.GetWorkerRequest(worker_id="7"))) == ["worker_id"]
    bad_failures = pb.ListFailuresRequest(page_size=1001, page_token="!", workload="a\x00")
    assert await fields(call.ListFailures(bad_failures)) == ["page_size", "workload", "page_token"]
    for token in ("x", "bnVsbA==", "W10=", "e30=", "W1siYXBwcyJdLFsxXV0="):
        assert await fields(call.ListApps(pb.ListAppsRequest(page_token=token))) == ["page_token"]


async def test_a_token_works_until_it_is_revoked_and_only_its_hash_is_kept(rig: Rig) -> None:
    await rig.call.CreateApp(pb.CreateAppRequest(app=pb.App(app_id="search")))
    issued = await rig.call.CreateAppToken(pb.CreateAppTokenRequest(app_id="search", description="laptop"))
    assert issued.token.startswith("pdm_")
    assert len(issued.token) == len("pdm_") + 43
    digest = hashlib.sha256(issued.token.encode()).digest()
    jobs = job_ledger.JobLedger(rig.ledger)
    assert await jobs.app_of_token(digest) == "search"
    async with rig.sql() as connection:
        row = await connection.fetchrow("SELECT * FROM app_tokens")
    assert issued.token not in str(row)
    assert (row["token_sha256"], row["description"], str(row["token_id"])) == (digest, "laptop", issued.token_id)
    for _ in range(2):
        await rig.call.RevokeAppToken(pb.RevokeAppTokenRequest(token_id=issued.token_id))
    assert await jobs.app_of_token(digest) is None
    error = await refused(rig.call.RevokeAppToken(pb.RevokeAppTokenRequest(token_id=NIL)))
    assert (type(error), error.reason) == (errors.NotFound, "TOKEN_NOT_FOUND")


async def test_lists_come_in_pages_whose_tokens_are_theirs_alone(rig: Rig) -> None:
    names = [f"app-{n}" for n in range(5)]
    for name in reversed(names):
        await rig.call.CreateApp(pb.CreateAppRequest(app=pb.App(app_id=name)))
    seen, token = [], ""
    while True:
        page = await rig.call.ListApps(pb.ListAppsRequest(page_size=2, page_token=token))
        seen.append([app.app_id for app in page.apps])
        token = page.next_page_token
        if not token:
            break
        assert await fields(rig.call.ListWorkers(pb.ListWorkersRequest(page_token=token))) == ["page_token"]
    assert seen == [names[:2], names[2:4], names[4:]]
    exact = await rig.call.ListApps(pb.ListAppsRequest(page_size=5))
    assert exact.next_page_token == ""


async def test_workers_are_those_with_a_session(rig: Rig) -> None:
    opened = sorted([await open_worker(rig, {}) for _ in range(3)], key=lambda s: s.worker_id)
    again = await open_worker(rig, {}, workers=opened[0].worker_id)
    gone = opened[2]
    await session_ledger.SessionLedger(rig.ledger, timedelta(seconds=60)).end(gone.session_id)
    first = await rig.call.ListWorkers(pb.ListWorkersRequest(page_size=1))
    rest = await rig.call.ListWorkers(pb.ListWorkersRequest(page_size=1, page_token=first.next_page_token))
    found = [*first.workers, *rest.workers]
    assert [w.worker_id for w in found] == [str(s.worker_id) for s in opened[:2]]
    assert rest.next_page_token == ""
    worker = (await rig.call.GetWorker(pb.GetWorkerRequest(worker_id=str(again.worker_id)))).worker
    assert worker == found[0]
    assert (worker.session_id, worker.replica_id, worker.hostname) == (str(again.session_id), "replica-1", "host-1")
    assert worker.devices[0].name == "A CPU"
    assert worker.status.total_credits == 7
    assert worker.heartbeat_time.ToDatetime() >= worker.connect_time.ToDatetime()
    error = await refused(rig.call.GetWorker(pb.GetWorkerRequest(worker_id=str(gone.worker_id))))
    assert (type(error), error.reason) == (errors.NotFound, "WORKER_NOT_FOUND")


async def test_a_drain_is_remembered_over_the_worker_s_sessions(rig: Rig) -> None:
    first = await open_worker(rig, {"minilm": 3})
    worker_id = str(first.worker_id)
    answer = await rig.call.DrainWorker(pb.DrainWorkerRequest(worker_id=worker_id))
    assert answer.worker.worker_id == worker_id
    sessions = session_ledger.SessionLedger(rig.ledger, timedelta(seconds=60))
    assert await sessions.renew([records.Heartbeat(first.session_id, b"", {})]) == {
        first.session_id: records.Wish(drain=True, wanted=[])
    }
    second = await open_worker(rig, {}, first.worker_id)
    assert await sessions.renew([records.Heartbeat(second.session_id, b"", {})]) == {
        second.session_id: records.Wish(drain=True, wanted=[])
    }
    assert (await refused(rig.call.DrainWorker(pb.DrainWorkerRequest(worker_id=NIL)))).reason == "WORKER_NOT_FOUND"


async def test_a_quarantine_is_shown_and_remembered_over_the_worker_s_sessions(rig: Rig) -> None:
    new = await open_worker(rig, {})
    sessions = session_ledger.SessionLedger(rig.ledger, timedelta(seconds=60))
    await sessions.renew([records.Heartbeat(new.session_id, b"", {}, "3 of its results were refused", 50.0)])
    (listed,) = (await rig.call.ListWorkers(pb.ListWorkersRequest())).workers
    assert listed.quarantine_reason == "3 of its results were refused"
    again = dataclasses.replace(new, session_id=uuid.uuid4())
    _, _, standing = await sessions.open(again, [])
    assert standing.quarantine_reason == "3 of its results were refused"
    assert 40 < standing.quarantine_left_s <= 50
    await sessions.renew([records.Heartbeat(again.session_id, b"", {})])
    (listed,) = (await rig.call.ListWorkers(pb.ListWorkersRequest())).workers
    assert listed.quarantine_reason == ""


async def test_queues_say_what_waits_what_runs_and_who_serves(rig: Rig) -> None:
    session = await open_worker(rig, {"minilm": 4, "hash-384": 0})
    await open_worker(rig, {"minilm": 3})
    job_id = await admit(rig, "minilm", 5)
    async with rig.sql() as connection:
        await connection.execute("UPDATE jobs SET create_time = now() - INTERVAL '1 hour', batches_pending = 2")
        await connection.execute("UPDATE batches SET state = 'QUEUED' WHERE first_item < 20")
        await connection.execute(
            "UPDATE batches SET state = 'LEASED', lease_token = '\\x01', session_id = $1 WHERE first_item = 20",
            session.session_id,
        )
    queues = {q.workload: q for q in (await rig.call.ListQueues(pb.ListQueuesRequest())).queues}
    assert list(queues) == ["hash-384", "minilm"]
    idle, busy = queues["hash-384"], queues["minilm"]
    assert (busy.batches_pending, busy.batches_queued, busy.batches_leased) == (2, 2, 1)
    assert (busy.credits, busy.workers) == (7, 2)
    assert timedelta(hours=1) <= busy.oldest_age.ToTimedelta() < timedelta(hours=2)
    assert (idle.batches_pending, idle.credits, idle.workers, idle.oldest_age.ToTimedelta()) == (0, 0, 0, timedelta())
    stats = await rig.call.GetStats(pb.GetStatsRequest())
    assert (stats.jobs_active, stats.items_waiting, stats.workers) == (1, 50, 2)
    assert job_id


async def test_failures_come_newest_first_and_by_workload(rig: Rig) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    old = await admit(rig, "minilm", 3)
    new = await admit(rig, "hash-384", 1, app_id="app-b")
    await fail(rig, old, moment)
    await fail(rig, new, moment + timedelta(seconds=1))
    seen: list[operator_pb2.Failure] = []
    token = ""
    while True:
        page = await rig.call.ListFailures(pb.ListFailuresRequest(page_size=3, page_token=token))
        seen.extend(page.failures)
        token = page.next_page_token
        if not token:
            break
        other = pb.ListFailuresRequest(page_token=token, workload="minilm")
        assert await fields(rig.call.ListFailures(other)) == ["page_token"]
    assert [(f.workload, f.first_item) for f in seen] == [("hash-384", 0), *[("minilm", n) for n in (20, 10, 0)]]
    failure = seen[1]
    assert (failure.app_id, failure.job_id, failure.item_count, failure.attempt) == ("app-a", str(old), 10, 5)
    assert failure.reason == job_pb2.BATCH_FAILURE_REASON_WORKER_LOST
    assert failure.message == "five workers were lost"
    assert failure.finish_time.ToDatetime(UTC) == moment
    only = await rig.call.ListFailures(pb.ListFailuresRequest(workload="hash-384"))
    assert [f.job_id for f in only.failures] == [str(new)]


async def requeue(rig: Rig, batch_id: int) -> str:
    """Why it is refused; empty when it is not."""
    request = pb.RequeueBatchRequest(batch_id=batch_id)
    try:
        await rig.call.RequeueBatch(request)
    except grpc.aio.AioRpcError as error:
        refusal = statuses.from_rpc_error(error)
        assert isinstance(refusal, errors.NotFound | errors.FailedPrecondition)
        return refusal.reason
    return ""


async def give_up(rig: Rig, job_id: uuid.UUID) -> list[int]:
    """The batches of a job, given up for want of a model; in item order."""
    batches = batch_ledger.BatchLedger(rig.ledger, timedelta(days=7))
    await batches.give_up_waiting("minilm", "no worker can load it", max_jobs=10, max_batches=100)
    async with rig.sql() as connection:
        rows = await connection.fetch("SELECT batch_id FROM batches WHERE job_id = $1 ORDER BY first_item", job_id)
    return [row["batch_id"] for row in rows]


async def test_a_failed_batch_that_is_requeued_waits_as_if_it_had_never_been_tried(rig: Rig) -> None:
    jobs = job_ledger.JobLedger(rig.ledger)
    job_id = await admit(rig, "minilm", 3)
    first, second, _ = await give_up(rig, job_id)
    before = await jobs.job("app-a", job_id)
    assert before is not None
    assert (before.state, before.items_failed, before.batches_finished) == ("COMPLETED", 30, 3)
    assert await requeue(rig, second) == ""
    after = await jobs.job("app-a", job_id)
    assert after is not None
    assert (after.state, after.items_failed, after.batches_finished) == ("RUNNING", 20, 2)
    assert (after.finish_time, after.expire_time) == (None, None)
    found = await jobs.list_batches(job_id, 0, 10)
    assert [(b.state, b.attempt, b.failure_reason) for b in found][1] == ("PENDING", 0, None)
    assert [b.state for b in found] == ["FAILED", "PENDING", "FAILED"]
    batches = batch_ledger.BatchLedger(rig.ledger, timedelta(days=7))
    assert await batches.feed({job_id: 5}) == {job_id: [second]}
    listed = (await rig.call.ListFailures(pb.ListFailuresRequest())).failures
    assert sorted(f.first_item for f in listed) == [0, 20]
    assert await requeue(rig, second) == "BATCH_NOT_FAILED"
    assert await requeue(rig, first) == ""


async def test_a_batch_that_nobody_waits_for_is_not_requeued(rig: Rig) -> None:
    jobs = job_ledger.JobLedger(rig.ledger)
    read, late, over = [await admit(rig, "minilm", 2) for _ in range(3)]
    (read_first, read_second), (late_first, _), (over_first, _) = [await give_up(rig, j) for j in (read, late, over)]
    await jobs.release("app-a", read, 10, 100)
    async with rig.sql() as connection:
        await connection.execute("UPDATE jobs SET deadline = now() WHERE job_id = $1", late)
        await connection.execute("UPDATE jobs SET expire_time = now() WHERE job_id = $1", over)
    archive = archive_ledger.ArchiveLedger(rig.ledger)
    assert await archive.due(10) == [over]
    assert await requeue(rig, read_first) == "RESULTS_RELEASED"
    assert await requeue(rig, late_first) == "JOB_ENDED"
    assert await requeue(rig, over_first) == "RESULTS_EXPIRED"
    step = await archive.archive([over], max_batches=10, max_payload_bytes=1 << 20)
    assert (step.batches, step.jobs) == (2, (over,))
    assert await requeue(rig, over_first) == "RESULTS_EXPIRED"
    assert await requeue(rig, 1 << 62) == "BATCH_NOT_FOUND"
    # Of the job that was read half, the other half may run again.
    assert await requeue(rig, read_second) == ""


async def test_batches_of_a_cancelled_job_stay_failed(rig: Rig) -> None:
    job_id = await admit(rig, "minilm", 2)
    async with rig.sql() as connection:
        await connection.execute(
            "UPDATE batches SET state = 'FAILED', failure_reason = 'INTERNAL', finish_time = now()"
            " WHERE job_id = $1 AND first_item = 0",
            job_id,
        )
        await connection.execute("UPDATE jobs SET batches_pending = 1, batches_finished = 1, items_failed = 10")
        first = await connection.fetchval("SELECT batch_id FROM batches WHERE job_id = $1 AND first_item = 0", job_id)
    await job_ledger.JobLedger(rig.ledger).cancel("app-a", job_id, timedelta(days=7))
    assert await requeue(rig, first) == "JOB_ENDED"


async def test_load_times_by_workload_and_device(rig: Rig) -> None:
    loads = load_ledger.LoadLedger(rig.ledger)
    assert not (await rig.call.ListModelLoads(pb.ListModelLoadsRequest())).model_loads
    await loads.record(
        [
            records.ModelLoad("minilm", "NVIDIA L4", 2.5, 90 << 20),
            records.ModelLoad("clip", "NVIDIA L4", 9.0, 600 << 20),
            records.ModelLoad("clip", "A CPU", 12.0, 600 << 20),
        ]
    )
    await loads.record([records.ModelLoad("minilm", "NVIDIA L4", 4.5, 95 << 20)])
    found = (await rig.call.ListModelLoads(pb.ListModelLoadsRequest())).model_loads
    assert [(x.workload, x.device_name) for x in found] == [
        ("clip", "A CPU"), ("clip", "NVIDIA L4"), ("minilm", "NVIDIA L4"),
    ]  # fmt: skip
    (minilm,) = (await rig.call.ListModelLoads(pb.ListModelLoadsRequest(workload="minilm"))).model_loads
    assert (minilm.load_count, minilm.memory_bytes) == (2, 95 << 20)
    assert minilm.mean_duration.ToTimedelta() == timedelta(seconds=3.1)
    assert minilm.last_duration.ToTimedelta() == timedelta(seconds=4.5)
    assert abs(minilm.last_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert await fields(rig.call.ListModelLoads(pb.ListModelLoadsRequest(workload="No Name"))) == ["workload"]


async def test_stats_name_the_leader_while_it_leads(rig: Rig) -> None:
    assert (await rig.call.GetStats(pb.GetStatsRequest())).leader_replica_id == ""
    lead = leadership.Leadership(rig.url, "replica-7")
    assert await lead.attempt()
    assert (await rig.call.GetStats(pb.GetStatsRequest())).leader_replica_id == "replica-7"
    await lead.resign()
    async with rig.sql() as connection:
        # Returns once Postgres has noticed that the leader's connection is gone.
        await connection.execute("SELECT pg_advisory_lock($1)", leadership.LOCK_KEY)
        await connection.execute("SELECT pg_advisory_unlock($1)", leadership.LOCK_KEY)
    assert (await rig.call.GetStats(pb.GetStatsRequest())).leader_replica_id == ""


async def test_pods_and_limits_are_kept_in_the_ledger(rig: Rig) -> None:
    order = pb.SpawnPodRequest(provider="imaginary", gpu_type="L4", request_id=str(uuid.uuid4()))
    pod = (await rig.call.SpawnPod(order)).pod
    assert (await rig.call.SpawnPod(order)).pod == pod
    assert list((await rig.call.ListPods(pb.ListPodsRequest())).pods) == [pod]
    ended = (await rig.call.DestroyPod(pb.DestroyPodRequest(pod_id=pod.pod_id))).pod
    assert (ended.state, ended.cause) == (pb.POD_STATE_FAILED, pb.POD_REASON_OPERATOR)
    assert not (await rig.call.ListPods(pb.ListPodsRequest())).pods
    assert list((await rig.call.ListPods(pb.ListPodsRequest(states=[pb.POD_STATE_FAILED]))).pods) == [ended]
    history = (await rig.call.GetPod(pb.GetPodRequest(pod_id=pod.pod_id))).history
    assert [step.reason for step in history] == ["an operator asked for it", "an operator ended it"]
    limits = pb.Autoscaling(paused=True, min_pods=1, max_pods=10_000, max_usd_per_hour=999_999.999999)
    assert (await rig.call.SetAutoscaling(pb.SetAutoscalingRequest(autoscaling=limits))).autoscaling == limits
    assert (await rig.call.GetAutoscaling(pb.GetAutoscalingRequest())).autoscaling == limits
    said = (await rig.call.ExplainQueue(pb.ExplainQueueRequest(workload="minilm"))).reasons
    assert list(said) == ["autoscaling is paused: no pod is rented, and none retired"]


async def test_another_token_is_refused(rig: Rig) -> None:
    async with channels.open_channel(rig.address) as channel:
        error = await refused(Caller(channel, "a-guess").GetStats(pb.GetStatsRequest()))
    assert type(error) is errors.Unauthenticated
