"""The connection is cut at a COMMIT, after it or before it, and the caller cannot know which: exactly once holds."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from podium.common.v1 import job_pb2
from podium.scheduler.v1 import scheduler_pb2_grpc
from tests.integration.test_scheduler_stream import TOKEN, Client
from tests.support import ledger_moves, stack
from tests.support.commit_cutter import CommitCutter, Cut
from tests.support.fake_worker import STEP_S, FakeSession, FakeWorker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120), pytest.mark.parametrize("where", list(Cut))]

BATCHES = 2


@dataclass(slots=True)
class Rig:
    """A scheduler whose only way to Postgres is the cutter, and a hand-driven gateway."""

    client: Client
    cutter: CommitCutter

    async def ledger(self, query: str) -> int:
        """One number, read past the cutter."""
        async with ledger_moves.ledger(self.client.stack) as connection:
            found: int = await connection.fetchval(query)
        return found

    async def ends_well(self, job_id: str) -> None:
        """All items counted once, one result of each batch, none claimed twice, and the counters add up."""
        job = await self.client.reached(job_id, job_pb2.JOB_STATE_COMPLETED)
        assert (job.progress.items_succeeded, job.progress.batches_finished) == (2 * BATCHES, BATCHES)
        chunks = sorted(await self.client.results(job_id), key=lambda c: c.first_item)
        assert [np.frombuffer(c.vectors, "<f4")[0] for c in chunks] == [0, 2]
        assert await ledger_moves.claimed_again(self.client.stack) == {}
        assert self.cutter.cuts == 1


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with stack.servers(tmp_path) as running, CommitCutter(running.postgres.port).listening() as cutter:
        await ledger_moves.watch(running)
        url = re.sub(r":\d+/", f":{cutter.port}/", running.environment["PODIUM_POSTGRES_URL"])
        await running.start("scheduler", postgres_url=url)
        async with grpc.aio.insecure_channel(running.scheduler.address) as channel:
            client = Client(running, scheduler_pb2_grpc.SchedulerServiceStub(channel))
            yield Rig(client, cutter)
            await client.redis.aclose()


async def compute(rig: Rig, batches: int = BATCHES) -> None:
    """A worker takes the batches, each at its first attempt, and is told that each is done."""
    async with FakeWorker(rig.client.address).session() as worker:
        await worker.offer(batches)
        assigned = [await worker.assigned() for _ in range(batches)]
        assert [a.lease.attempt for a in assigned] == [1] * batches
        for assign in assigned:
            await worker.finish(assign)
        for _ in assigned:
            await worker.hear("ack")
        await worker.goodbye()


async def test_admit(rig: Rig, where: Cut) -> None:
    request_id = str(uuid.uuid4())
    rig.cutter.arm("INSERT INTO jobs", where)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.client.admit(BATCHES, request_id=request_id)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await rig.ledger("SELECT count(*) FROM jobs") == (1 if where is Cut.AFTER else 0)
    job = await rig.client.admit(BATCHES, request_id=request_id)
    assert await rig.ledger("SELECT count(*) FROM jobs") == 1
    assert await rig.ledger("SELECT count(*) FROM batches") == BATCHES
    await compute(rig)
    await rig.ends_well(job.job_id)


async def test_feed(rig: Rig, where: Cut) -> None:
    rig.cutter.arm("SET state = 'QUEUED'", where)
    job = await rig.client.admit(BATCHES)
    async with FakeWorker(rig.client.address).session() as worker:
        await worker.offer(BATCHES)
        await rig.cutter.cut()
        # Queued without an entry in Redis, after the COMMIT: the reconciler feeds them again.
        for assign in [await worker.assigned() for _ in range(BATCHES)]:
            await worker.finish(assign)
        for _ in range(BATCHES):
            await worker.hear("ack")
    await rig.ends_well(job.job_id)


async def offers(rig: Rig, worker: FakeSession) -> None:
    """The worker has nothing, and the scheduler knows it."""
    await worker.offer(BATCHES)
    async with asyncio.timeout(STEP_S):
        # Written a moment after the scheduler has heard it.
        while not await rig.ledger("SELECT count(*) FROM sessions WHERE credits <> '{}'"):
            pass


async def test_admit_to_a_worker(rig: Rig, where: Cut) -> None:
    """One statement admits, feeds and claims: without its answer nobody knows of the lease."""
    request_id = str(uuid.uuid4())
    async with FakeWorker(rig.client.address).session() as worker:
        await offers(rig, worker)
        # Until one goes this way, as the next one will: the feeder rests, and has looked.
        state = job_pb2.JOB_STATE_UNSPECIFIED
        while state != job_pb2.JOB_STATE_RUNNING:
            first = await rig.client.admit(1)
            state = first.state
            await worker.finish(await worker.assigned())
            await worker.hear("ack")
            await rig.client.reached(first.job_id, job_pb2.JOB_STATE_COMPLETED)
        rig.cutter.arm("AS slot(lease_token", where)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rig.client.admit(1, 2 * BATCHES, request_id=request_id)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await rig.ledger("SELECT count(*) FROM batches WHERE state = 'LEASED'") == int(where is Cut.AFTER)
        job = await rig.client.admit(1, 2 * BATCHES, request_id=request_id)
        assign = await worker.assigned()
        assert (assign.job_id, assign.lease.attempt) == (job.job_id, 1)
        await worker.finish(assign)
        await worker.hear("ack")
    done = await rig.client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.items_succeeded, done.progress.batches_finished) == (2 * BATCHES, 1)
    assert await ledger_moves.claimed_again(rig.client.stack) == {}
    assert rig.cutter.cuts == 1


async def test_hand_over(rig: Rig, where: Cut) -> None:
    """To a worker that has nothing: fed and claimed by one statement."""
    async with FakeWorker(rig.client.address).session() as worker:
        await offers(rig, worker)
        rig.cutter.arm("SET state = 'LEASED', queue_time", where)
        # A job whose items are looked up is not leased by the statement that admits it.
        request = rig.client.request(BATCHES, deduplicate=True)
        for batch in request.batches:
            batch.identities.hashes = os.urandom(16 * batch.item_count)
        job = (await rig.client.stub.AdmitJob(request, metadata=TOKEN)).job
        await rig.cutter.cut()
        for assign in [await worker.assigned() for _ in range(BATCHES)]:
            await worker.finish(assign)
        for _ in range(BATCHES):
            await worker.hear("ack")
    await rig.ends_well(job.job_id)


async def test_claim(rig: Rig, where: Cut) -> None:
    rig.cutter.arm("SET state = 'LEASED', attempt", where)
    job = await rig.client.admit(BATCHES)
    await compute(rig)
    await rig.ends_well(job.job_id)


async def test_complete(rig: Rig, where: Cut) -> None:
    rig.cutter.arm("SET state = 'COMPLETED'", where)
    job = await rig.client.admit(BATCHES)
    await compute(rig)
    await rig.ends_well(job.job_id)


async def test_retry(rig: Rig, where: Cut) -> None:
    """A failed attempt counts once."""
    job = await rig.client.admit(1)
    async with FakeWorker(rig.client.address).session() as worker:
        await worker.offer(1)
        failing = await worker.assigned()
        rig.cutter.arm("SET state = 'PENDING'", where)
        await worker.fail(failing, reason=job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY)
        # Committed at the first try, the second finds no such lease: either word means that the batch is not its own.
        await worker.hear("cancel" if where is Cut.AFTER else "ack")
        again = await worker.assigned()
        assert (again.lease.attempt, rig.cutter.cuts) == (2, 1)
        await worker.finish(again)
        await worker.hear("ack")
    done = await rig.client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.items_succeeded, done.progress.items_failed) == (2, 0)


async def test_release(rig: Rig, where: Cut) -> None:
    job = await rig.client.admit(BATCHES)
    await compute(rig)
    rig.cutter.arm("THEN 'DELIVERED'", where)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.client.release(job.job_id, 2)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await rig.client.job(job.job_id)).progress.items_released == (2 if where is Cut.AFTER else 0)
    # The reader says it again: what it has is trimmed, what it does not have is there.
    assert (await rig.client.release(job.job_id, 2)).progress.items_released == 2
    assert [c.first_item for c in await rig.client.results(job.job_id)] == [2]
    assert (await rig.client.release(job.job_id, 4)).results_released
    async with asyncio.timeout(STEP_S):
        while await rig.client.redis.keys(f"*{job.job_id}*"):  # noqa: ASYNC110 - by another process
            await asyncio.sleep(0.05)
    assert (await ledger_moves.claimed_again(rig.client.stack), rig.cutter.cuts) == ({}, 1)
