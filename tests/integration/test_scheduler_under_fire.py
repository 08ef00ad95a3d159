"""The scheduler when its Postgres restarts, and when workers send frames that make no sense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from podium.common.v1 import job_pb2
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_runtime import errors
from podium_scheduler.adapters.sql import batch_ledger, database, operator_ledger, session_ledger
from podium_scheduler.app import records
from tests.integration import test_scheduler_stream as stream
from tests.support import stack
from tests.support.fake_worker import FakeWorker


@contextlib.asynccontextmanager
async def scheduler(running: stack.Stack) -> AsyncIterator[stream.Client]:
    running.environment |= {"PODIUM_RESUME_GRACE_S": "1", "PODIUM_HEARTBEAT_S": "0.5", "PODIUM_MAX_ATTEMPTS": "2"}
    await running.start("scheduler")
    async with grpc.aio.insecure_channel(running.scheduler.address) as channel:
        made = stream.Client(running, scheduler_pb2_grpc.SchedulerServiceStub(channel))
        yield made
        await made.redis.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    async with stack.servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
async def client(shared: stack.Stack, tmp_path: Path) -> AsyncIterator[stream.Client]:
    async with stack.fresh(shared, tmp_path) as running, scheduler(running) as made:
        yield made


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[stream.Client]:
    """With a Postgres of its own, that may be killed."""
    async with stack.servers(tmp_path, as_deployed=True) as running, scheduler(running) as made:
        yield made


async def restart_postgres(running: stack.Stack, away_s: float) -> None:
    postgres = running.own_postgres
    port, pid = postgres.port, postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await postgres.wait()
    await asyncio.sleep(away_s)
    await postgres.stop()
    await postgres.start(port)


async def completes(client: stream.Client) -> None:
    """A fresh job goes through a fresh worker, on a scheduler that has not died."""
    job = await client.admit()
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        await worker.finish(await worker.assigned())
        await worker.hear("ack")
    await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert client.stack.scheduler.process.returncode is None


async def test_postgres_may_restart_under_the_scheduler(alone: stream.Client) -> None:
    job = await alone.admit()
    async with FakeWorker(alone.address).session() as worker:
        await worker.offer(1)
        assign = await worker.assigned()
        await restart_postgres(alone.stack, 1.5)
        await worker.finish(assign)
        await worker.hear("ack")
    await alone.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    await completes(alone)


@pytest.mark.parametrize(
    "workloads",
    [
        [worker_pb2.WorkloadStatus(workload="hash-384", credits=(1 << 32) - 1)],
        [worker_pb2.WorkloadStatus(workload="nul\x00", credits=1)],
        [worker_pb2.WorkloadStatus(workload="no-such-workload", credits=3)],
    ],
    ids=["too many credits", "NUL", "unknown workload"],
)
async def test_no_status_can_end_a_replica(client: stream.Client, workloads: list[worker_pb2.WorkloadStatus]) -> None:
    async with FakeWorker(client.address).session() as worker:
        status = worker_pb2.Status(total_credits=(1 << 32) - 1, workloads=workloads)
        for _ in range(3):
            await worker.say(worker_pb2.WorkerFrame(status=status))
            await worker.hear("desired")
        await worker.offer(0)
    await completes(client)


@pytest.mark.parametrize("attempts", [1, 2])
async def test_no_failure_can_stop_the_completer(client: stream.Client, attempts: int) -> None:
    job = await client.admit()
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        for _ in range(attempts):
            assign = await worker.assigned()
            failed = worker_pb2.BatchFailed(lease=assign.lease, message="a NUL \x00", retryable=attempts > 1)
            failed.reason = 999  # type: ignore[assignment]
            await worker.say(worker_pb2.WorkerFrame(failed=failed))
            await worker.hear("ack")
    await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    await completes(client)


async def test_a_session_fenced_at_another_replica_does_not_burn_the_queue(client: stream.Client) -> None:
    other = await client.stack.start("scheduler")
    worker, elsewhere = FakeWorker(client.address), FakeWorker(other.address)
    elsewhere.worker_id = worker.worker_id
    async with worker.session() as old, elsewhere.session() as new:
        await client.admit(batches=40)
        # Where that took long, the keeper has ended the old stream already.
        with contextlib.suppress(asyncio.InvalidStateError):
            await old.offer(8)
        assert await old.ended() == grpc.StatusCode.OK
        await new.offer(40)
        async with asyncio.timeout(4):
            for _ in range(40):
                assert (await new.assigned()).lease.attempt == 1


async def test_a_claim_may_be_repeated(client: stream.Client) -> None:
    pool = database.Database(client.stack.environment["PODIUM_POSTGRES_URL"], pool_size=1)
    batches, week = batch_ledger.BatchLedger(pool, timedelta(days=7)), timedelta(days=7)
    session = records.NewSession(uuid.uuid4(), uuid.uuid4(), "test", "test", "0", "", b"")
    try:
        await session_ledger.SessionLedger(pool, week).open(session, [])
        await client.admit(batches=2)
        async with asyncio.timeout(5):
            queued: dict[int, str] = {}
            while True:
                queued = await batches.queued_since(timedelta(0), 10)
                if len(queued) == 2:
                    break
                await asyncio.sleep(0.02)
        claims = [records.Claim(batch_id, uuid.uuid4().bytes, session.session_id) for batch_id in queued]
        first, again = await batches.claim(claims), await batches.claim(claims)
        assert [(b.batch_id, b.attempt, b.lease_token) for b in first] == [
            (b.batch_id, b.attempt, b.lease_token) for b in again
        ]
        assert [b.attempt for b in first] == [1, 1]
        others = [records.Claim(batch_id, uuid.uuid4().bytes, session.session_id) for batch_id in queued]
        assert await batches.claim(others) == []
    finally:
        await pool.close()


async def test_a_job_that_is_there_is_found_again_while_its_app_is_over_its_quota(client: stream.Client) -> None:
    request_id = str(uuid.uuid4())
    job = await client.admit(request_id=request_id)
    pool = database.Database(client.stack.environment["PODIUM_POSTGRES_URL"], pool_size=1)
    try:
        assert await operator_ledger.OperatorLedger(pool).update_app("default", 1, 1)
    finally:
        await pool.close()
    assert isinstance(await stream.refusal(client.admit()), errors.ResourceExhausted)
    assert (await client.admit(request_id=request_id)).job_id == job.job_id


async def test_a_cancelled_jobs_results_that_are_lost_are_not_waited_for(client: stream.Client) -> None:
    job = await client.admit(batches=2)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        await worker.finish(await worker.assigned())
        await worker.hear("ack")
        await worker.assigned()
        request = scheduler_pb2.CancelJobRequest(app_id="default", job_id=job.job_id)
        await client.stub.CancelJob(request, metadata=stream.TOKEN)
    await client.redis.flushall()
    async with asyncio.timeout(10):
        while {b.state for b in await client.batches(job.job_id)} != {job_pb2.BATCH_STATE_CANCELLED}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    progress = (await client.job(job.job_id)).progress
    assert (progress.items_failed, progress.items_succeeded, progress.batches_finished) == (4, 0, 2)
