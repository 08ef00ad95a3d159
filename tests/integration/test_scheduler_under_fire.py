"""The scheduler when its Postgres restarts, and when workers send frames that make no sense."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from podium.common.v1 import job_pb2
from podium.scheduler.v1 import scheduler_pb2_grpc
from podium.worker.v1 import worker_pb2
from tests.integration import test_scheduler_stream as stream
from tests.support import stack
from tests.support.fake_worker import FakeWorker


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[stream.Client]:
    async with stack.servers(tmp_path) as running:
        running.environment |= {"PODIUM_RESUME_GRACE_S": "1", "PODIUM_HEARTBEAT_S": "0.5", "PODIUM_MAX_ATTEMPTS": "2"}
        await running.start("scheduler")
        async with grpc.aio.insecure_channel(running.scheduler.address) as channel:
            made = stream.Client(running, scheduler_pb2_grpc.SchedulerServiceStub(channel))
            yield made
            await made.redis.aclose()


async def restart_postgres(running: stack.Stack, away_s: float) -> None:
    postgres = running.postgres
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


async def test_postgres_may_restart_under_the_scheduler(client: stream.Client) -> None:
    job = await client.admit()
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        assign = await worker.assigned()
        await restart_postgres(client.stack, 1.5)
        await worker.finish(assign)
        await worker.hear("ack")
    await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    await completes(client)


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
