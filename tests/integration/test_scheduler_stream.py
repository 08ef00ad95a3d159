"""The scheduler between a hand-driven gateway and hand-driven workers: admission, leases, fencing, retries, release."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import numpy as np
import pytest
import pytest_asyncio
import redis.asyncio as redis

from podium.common.v1 import item_pb2, job_pb2, result_pb2, workload_pb2
from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium.worker.v1 import worker_pb2
from podium_client import AsyncClient
from podium_runtime import auth, errors, statuses
from tests.support import stack
from tests.support.fake_worker import STEP_S, FakeWorker, chunk_of, rows_of, texts_of

TOKEN = auth.authorization(stack.INTERNAL_TOKEN)


class Client:
    """The gateway's side, by hand."""

    def __init__(self, running: stack.Stack, stub: scheduler_pb2_grpc.SchedulerServiceStub) -> None:
        self.stack = running
        self.stub = stub
        self.redis = redis.Redis.from_url(running.redis.url)

    @property
    def address(self) -> str:
        return self.stack.scheduler.address

    def request(self, batches: int = 1, items: int = 2, **changes: object) -> scheduler_pb2.AdmitJobRequest:
        new = []
        for number in range(batches):
            first = number * items
            payload = item_pb2.TextItems(items=[item_pb2.TextItem(text=f"text {first + n}") for n in range(items)])
            new.append(
                scheduler_pb2.NewBatch(
                    first_item=first,
                    item_count=items,
                    payload=payload.SerializeToString(),
                    payload_encoding=item_pb2.PAYLOAD_ENCODING_IDENTITY,
                )
            )
        request = scheduler_pb2.AdmitJobRequest(
            app_id="default",
            request_id=str(uuid.uuid4()),
            payload_digest=b"digest",
            workload="hash-384",
            modality=workload_pb2.MODALITY_TEXT,
            priority=3,
            batches=new,
        )
        for name, value in changes.items():
            setattr(request, name, value)
        return request

    async def admit(self, batches: int = 1, items: int = 2, **changes: object) -> job_pb2.Job:
        request = self.request(batches, items, **changes)
        return (await self.stub.AdmitJob(request, metadata=TOKEN)).job

    async def job(self, job_id: str) -> job_pb2.Job:
        request = scheduler_pb2.GetJobRequest(app_id="default", job_id=job_id)
        return (await self.stub.GetJob(request, metadata=TOKEN)).job

    async def reached(self, job_id: str, state: job_pb2.JobState) -> job_pb2.Job:
        async with asyncio.timeout(STEP_S):
            while True:
                job = await self.job(job_id)
                if job.state == state:
                    return job
                await asyncio.sleep(0.02)

    async def batches(self, job_id: str) -> list[scheduler_pb2.Batch]:
        request = scheduler_pb2.ListBatchesRequest(app_id="default", job_id=job_id)
        return list((await self.stub.ListBatches(request, metadata=TOKEN)).batches)

    async def results(self, job_id: str) -> list[result_pb2.ResultChunk]:
        found: Any = await self.redis.hvals(f"podium:chunks:{{{job_id}}}")
        return [result_pb2.ResultChunk.FromString(chunk) for chunk in found]

    async def release(self, job_id: str, before_item: int) -> job_pb2.Job:
        request = scheduler_pb2.ReleaseResultsRequest(app_id="default", job_id=job_id, before_item=before_item)
        return (await self.stub.ReleaseResults(request, metadata=TOKEN)).job

    async def drained(self) -> None:
        """Waits until no work stream holds an entry."""
        async with asyncio.timeout(STEP_S):
            while True:
                if not await self.redis.xlen("podium:work:hash-384"):
                    return
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    async with stack.servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
async def client(shared: stack.Stack, tmp_path: Path) -> AsyncIterator[Client]:
    async with stack.fresh(shared, tmp_path) as running:
        running.environment |= {
            "PODIUM_RESUME_GRACE_S": "2",
            # FakeWorker says nothing by itself: on a busy machine a test may take longer than a lease usually lasts.
            "PODIUM_LEASE_TTL_S": "60",
            "PODIUM_HEARTBEAT_S": "0.5",
            "PODIUM_MAX_ATTEMPTS": "2",
            "PODIUM_UNSERVABLE_PATIENCE_S": "1",
        }
        await running.start("scheduler")
        options = [("grpc.max_send_message_length", 1 << 27)]
        async with grpc.aio.insecure_channel(running.scheduler.address, options=options) as channel:
            made = Client(running, scheduler_pb2_grpc.SchedulerServiceStub(channel))
            yield made
            await made.redis.aclose()


async def refusal(call: object) -> errors.PodiumError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return statuses.from_rpc_error(caught.value)


async def test_a_batch_goes_through_all_of_its_life(client: Client) -> None:
    job = await client.admit(batches=2)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(4)
        first, second = await worker.assigned(), await worker.assigned()
        assert texts_of(first) == ["text 0", "text 1"]
        assert (await client.reached(job.job_id, job_pb2.JOB_STATE_RUNNING)).HasField("start_time")
        await worker.finish(second)
        assert (await worker.hear("ack")).ack.lease == second.lease
        await worker.finish(first)
        await worker.hear("ack")
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.items_succeeded, done.progress.batches_finished) == (4, 2)
    chunks = sorted(await client.results(job.job_id), key=lambda c: c.first_item)
    assert [np.frombuffer(c.vectors, "<f4")[0] for c in chunks] == [0, 2]
    await client.drained()
    assert (await client.release(job.job_id, 2)).progress.items_released == 2
    assert [c.first_item for c in await client.results(job.job_id)] == [2]
    released = await client.release(job.job_id, 4)
    assert released.results_released
    async with asyncio.timeout(STEP_S):
        while delivered := await client.batches(job.job_id):
            assert {b.state for b in delivered} == {job_pb2.BATCH_STATE_DELIVERED}
            await asyncio.sleep(0.05)
    assert await client.job(job.job_id) == released
    assert await client.redis.keys(f"*{job.job_id}*") == []


async def test_an_idle_worker_has_a_job_as_soon_as_it_is_admitted(client: Client) -> None:
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(4)
        states = []
        async with asyncio.timeout(STEP_S):
            # The feeder may have something to look for in between; what it finds goes the ordinary way.
            while job_pb2.JOB_STATE_RUNNING not in states:
                job = await client.admit()
                states.append(job.state)
                assign = await worker.assigned()
                assert (assign.job_id, assign.lease.attempt, texts_of(assign)) == (job.job_id, 1, ["text 0", "text 1"])
                await worker.finish(assign)
                await worker.hear("ack")
                done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
        assert (done.progress.items_succeeded, len(await client.results(job.job_id))) == (2, 1)
        more = await client.admit(batches=3)
        assigned = [(await worker.assigned()).first_item for _ in range(3)]
        assert sorted(assigned) == [0, 2, 4]
        assert {b.attempt for b in await client.batches(more.job_id)} == {1}


async def test_the_same_request_is_one_job_and_another_payload_is_refused(client: Client) -> None:
    request_id = str(uuid.uuid4())
    first = await client.admit(request_id=request_id)
    assert (await client.admit(request_id=request_id)).job_id == first.job_id
    error = await refusal(client.admit(request_id=request_id, payload_digest=b"another"))
    assert isinstance(error, errors.AlreadyExists)
    assert error.metadata["job_id"] == first.job_id


async def test_another_app_sees_nothing(client: Client) -> None:
    job = await client.admit()
    request = scheduler_pb2.GetJobRequest(app_id="somebody-else", job_id=job.job_id)
    assert isinstance(await refusal(client.stub.GetJob(request, metadata=TOKEN)), errors.NotFound)


async def test_a_wrong_token_gets_nowhere(client: Client) -> None:
    request = scheduler_pb2.ListWorkloadsRequest()
    error = await refusal(client.stub.ListWorkloads(request, metadata=auth.authorization("guess")))
    assert isinstance(error, errors.Unauthenticated)


async def test_a_worker_that_resumes_keeps_its_lease_and_its_result_counts_once(client: Client) -> None:
    job = await client.admit()
    worker = FakeWorker(client.address)
    async with worker.session() as session:
        await session.offer(1)
        assign = await session.assigned()
    async with worker.session(in_hand=[assign.lease]) as session:
        assert list(session.welcome.resumed) == [assign.lease]
        await session.finish(assign)
        await session.hear("ack")
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert [b.attempt for b in await client.batches(job.job_id)] == [1]
    assert done.progress.items_succeeded == 2


async def test_a_lost_workers_batch_goes_to_another_and_its_late_result_is_refused(client: Client) -> None:
    job = await client.admit()
    lost = FakeWorker(client.address)
    async with lost.session() as session:
        await session.offer(1)
        stale = await session.assigned()
    async with FakeWorker(client.address).session() as other:
        await other.offer(1)
        assign = await other.assigned()
        assert (assign.lease.attempt, texts_of(assign)) == (2, texts_of(stale))
        async with lost.session(in_hand=[stale.lease]) as late:
            assert not late.welcome.resumed
            await late.finish(stale, rows_of(stale) + 1)
            await late.goodbye()
        await other.finish(assign)
        await other.hear("ack")
    await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    (chunk,) = await client.results(job.job_id)
    assert np.frombuffer(chunk.vectors, "<f4")[0] == 0


async def test_a_new_session_of_a_worker_fences_the_old(client: Client) -> None:
    worker = FakeWorker(client.address)
    async with worker.session() as old, worker.session():
        assert await old.ended() == grpc.StatusCode.OK


async def test_goodbye_hands_batches_back_at_once_and_costs_no_attempt(client: Client) -> None:
    await client.admit()
    async with FakeWorker(client.address).session() as leaving, FakeWorker(client.address).session() as other:
        await leaving.offer(1)
        await leaving.assigned()
        await leaving.goodbye()
        await other.offer(1)
        assert (await other.assigned()).lease.attempt == 1


async def test_a_failed_attempt_is_retried_until_the_budget_is_spent(client: Client) -> None:
    job = await client.admit(batches=2)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        for attempt in (1, 2):
            assign = await worker.assigned()
            while assign.first_item != 0:
                await worker.finish(assign)
                await worker.hear("ack")
                assign = await worker.assigned()
            assert assign.lease.attempt == attempt
            await worker.fail(assign, reason=job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY)
            await worker.hear("ack")
        if (await client.job(job.job_id)).state != job_pb2.JOB_STATE_COMPLETED:
            await worker.finish(await worker.assigned())
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.items_failed, done.progress.items_succeeded) == (2, 2)
    failed = (await client.batches(job.job_id))[0]
    assert failed.state == job_pb2.BATCH_STATE_FAILED
    assert failed.failure_reason == job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY


async def test_a_crash_halves_the_batch_until_one_item_stands_alone(client: Client) -> None:
    poison = 6
    job = await client.admit(batches=2, items=5)
    crashed: list[tuple[int, int, int, int]] = []
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        while (await client.job(job.job_id)).state != job_pb2.JOB_STATE_COMPLETED:
            assign = await worker.assigned()
            texts = texts_of(assign)[assign.payload_offset : assign.payload_offset + assign.item_count]
            assert texts == [f"text {assign.first_item + n}" for n in range(assign.item_count)]
            if assign.first_item <= poison < assign.first_item + assign.item_count:
                crashed.append((assign.first_item, assign.item_count, assign.payload_offset, assign.lease.attempt))
                await worker.fail(assign)
            else:
                await worker.finish(assign)
            await worker.hear("ack")
    assert crashed == [(5, 5, 0, 1), (5, 2, 0, 1), (6, 1, 1, 1), (6, 1, 1, 2)]
    done = (await client.job(job.job_id)).progress
    assert (done.items_succeeded, done.items_failed) == (9, 1)
    assert (done.batches_total, done.batches_finished) == (4, 4)
    batches = await client.batches(job.job_id)
    assert [(b.first_item, b.item_count) for b in batches] == [(0, 5), (5, 1), (6, 1), (7, 3)]
    assert (batches[2].failure_reason, batches[2].failure_message) == (
        job_pb2.BATCH_FAILURE_REASON_EXECUTOR_CRASHED,
        "this item alone kills the process that computes it",
    )
    assert (await client.release(job.job_id, 10)).results_released


async def test_a_crash_of_a_cancelled_or_lost_attempt_halves_nothing(client: Client) -> None:
    job = await client.admit()
    lost = FakeWorker(client.address)
    async with lost.session() as session:
        await session.offer(1)
        stale = await session.assigned()
    async with FakeWorker(client.address).session() as other:
        await other.offer(1)
        assign = await other.assigned()
        async with lost.session() as late:
            await late.fail(stale)
            await late.goodbye()
        await other.finish(assign)
        await other.hear("ack")
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.batches_total, done.progress.items_succeeded) == (1, 2)


async def test_a_result_of_the_whole_batch_does_no_harm_to_its_halves(client: Client) -> None:
    """It was admitted to Redis, then its lease was lost before the ledger heard of it; the next attempt crashed."""
    job = await client.admit(items=4)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        whole = await worker.assigned()
        chunk = chunk_of(whole, rows_of(whole)).SerializeToString()
        await client.redis.hset(f"podium:chunks:{{{job.job_id}}}", "0:1f:0", chunk)
        await client.redis.hset(f"podium:index:{{{job.job_id}}}", "0", f"1f 4 {len(chunk)}")
        await worker.fail(whole)
        await worker.hear("ack")
        for first in (0, 2):
            half = await worker.assigned()
            assert (half.first_item, half.item_count, half.payload_offset) == (first, 2, first)
            await worker.finish(half)
            await worker.hear("ack")
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert (done.progress.items_succeeded, done.progress.batches_total) == (4, 2)
    await client.stack.start("gateway")
    async with AsyncClient(client.stack.gateway.address, stack.APP_TOKEN) as reader:
        parts = [part async for part in reader.results(job.job_id)]
    assert [(part.first_item, part.item_count) for part in parts] == [(0, 2), (2, 2)], "what the ledger counts"
    assert [int(part.vectors[n, 0]) for part in parts for n in range(2)] == [0, 1, 2, 3]
    assert (await client.release(job.job_id, 4)).results_released
    assert await client.redis.keys(f"*{job.job_id}*") == []


@pytest.mark.parametrize("damage", ["nan", "checksum", "dimension", "missing"])
async def test_a_bad_result_is_refused_and_the_batch_computed_again(client: Client, damage: str) -> None:
    job = await client.admit()
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        assign = await worker.assigned()
        rows = rows_of(assign, 128 if damage == "dimension" else 384)
        if damage == "nan":
            rows[1, 7] = np.nan
        chunk = chunk_of(assign, rows)
        if damage == "checksum":
            chunk.crc32c ^= 1
        if damage != "missing":
            await worker.send_chunk(assign, chunk)
        else:
            empty = worker_pb2.BatchDone(lease=assign.lease, chunk_count=0)
            await worker.say(worker_pb2.WorkerFrame(done=empty))
        cancel = (await worker.hear("cancel")).cancel
        assert cancel.reason == worker_pb2.CANCEL_REASON_RESULT_REFUSED
        await worker.hear("ack")
        again = await worker.assigned()
        assert again.lease.attempt == 2
        await worker.finish(again)
        await worker.hear("ack")
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert done.progress.items_succeeded == 2


async def test_only_what_the_job_asked_for_is_taken(client: Client) -> None:
    """In the encoding and the length of its options, also over a stream that broke."""
    options = item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_BINARY, dimensions=12)
    request = client.request()
    request.options.CopyFrom(options)
    job = (await client.stub.AdmitJob(request, metadata=TOKEN)).job
    worker = FakeWorker(client.address)
    async with worker.session() as session:
        await session.offer(1)
        assign = await session.assigned()
        assert assign.options == options
    async with worker.session(in_hand=[assign.lease]) as session:
        await session.send_chunk(assign, chunk_of(assign, rows_of(assign)))
        assert (await session.hear("cancel")).cancel.reason == worker_pb2.CANCEL_REASON_RESULT_REFUSED
        await session.hear("ack")
        await session.offer(1)
        again = await session.assigned()
        chunk = chunk_of(again, rows_of(again))
        chunk.vectors = b"\xab\xc0\x12\x30"
        chunk.dtype, chunk.dimension = workload_pb2.DTYPE_BINARY, 12
        chunk.crc32c = google_crc32c.value(chunk.vectors)
        await session.send_chunk(again, chunk)
        await session.say(worker_pb2.WorkerFrame(done=worker_pb2.BatchDone(lease=again.lease, chunk_count=1)))
        await session.hear("ack")
    await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    (stored,) = await client.results(job.job_id)
    assert (stored.vectors, stored.dtype) == (b"\xab\xc0\x12\x30", workload_pb2.DTYPE_BINARY)


async def test_a_worker_is_told_what_to_load_and_told_again_when_it_comes_back(client: Client) -> None:
    """It offers no credit at all: that there is work is reason enough."""
    await client.admit(workload="hash-1024")
    worker, device = FakeWorker(client.address), worker_pb2.Device(index=0, uuid="cpu", name="A CPU")
    async with worker.session(devices=[device]) as session:
        wanted: list[str] = []
        while not wanted:
            wanted = list((await session.hear("desired")).desired.resident_workloads)
            await session.say(worker_pb2.WorkerFrame(status=worker_pb2.Status()))
        assert wanted == ["hash-1024"]
    async with worker.session(devices=[device]) as session:
        assert list((await session.hear("desired")).desired.resident_workloads) == wanted


async def test_load_times_come_out_of_status_frames(client: Client) -> None:
    device = worker_pb2.Device(index=0, uuid="GPU-1", name="NVIDIA L4", vram_bytes=24 << 30)
    model = worker_pb2.ResidentModel(workload="hash-384", memory_bytes=5)
    model.load_duration.FromMilliseconds(1500)
    status = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(index=0, models=[model])])
    async with FakeWorker(client.address).session(devices=[device]) as session:
        async with asyncio.timeout(STEP_S), grpc.aio.insecure_channel(client.address) as channel:
            stub = operator_pb2_grpc.OperatorServiceStub(channel)
            found: list[operator_pb2.ModelLoad] = []
            while not found:
                await session.say(worker_pb2.WorkerFrame(status=status))
                request = operator_pb2.ListModelLoadsRequest(workload="hash-384")
                answer = await stub.ListModelLoads(request, metadata=auth.authorization(stack.OPERATOR_TOKEN))
                found = list(answer.model_loads)
                await asyncio.sleep(0.05)
    (load,) = found
    assert (load.device_name, load.load_count, load.memory_bytes) == ("NVIDIA L4", 1, 5)
    assert load.last_duration.ToMilliseconds() == 1500


async def test_cancel_reaches_the_worker_and_ends_the_job(client: Client) -> None:
    job = await client.admit(batches=3)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        assign = await worker.assigned()
        request = scheduler_pb2.CancelJobRequest(app_id="default", job_id=job.job_id)
        cancelled = (await client.stub.CancelJob(request, metadata=TOKEN)).job
        assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
        assert cancelled.progress.items_failed == 6
        cancel = (await worker.hear("cancel")).cancel
        assert cancel.lease == assign.lease
        assert cancel.reason == worker_pb2.CANCEL_REASON_JOB_CANCELLED
        await worker.finish(assign)
        assert (await client.stub.CancelJob(request, metadata=TOKEN)).job.state == job_pb2.JOB_STATE_CANCELLED
    assert await client.results(job.job_id) == []
    await client.drained()


async def test_a_finished_job_cannot_be_cancelled(client: Client) -> None:
    job = await client.admit()
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        await worker.finish(await worker.assigned())
        await worker.hear("ack")
    request = scheduler_pb2.CancelJobRequest(app_id="default", job_id=job.job_id)
    error = await refusal(client.stub.CancelJob(request, metadata=TOKEN))
    assert isinstance(error, errors.FailedPrecondition)


async def test_a_deadline_expires_what_is_left(client: Client) -> None:
    request_window = 1
    job = await client.admit()
    assert not job.HasField("deadline")
    new = scheduler_pb2.AdmitJobRequest(
        app_id="default",
        request_id=str(uuid.uuid4()),
        payload_digest=b"d",
        workload="hash-384",
        modality=workload_pb2.MODALITY_TEXT,
        priority=3,
        batches=[
            scheduler_pb2.NewBatch(item_count=1, payload=b"", payload_encoding=item_pb2.PAYLOAD_ENCODING_IDENTITY)
        ],
    )
    new.completion_window.FromSeconds(request_window)
    late = (await client.stub.AdmitJob(new, metadata=TOKEN)).job
    await client.reached(late.job_id, job_pb2.JOB_STATE_EXPIRED)
    (batch,) = await client.batches(late.job_id)
    assert batch.failure_reason == job_pb2.BATCH_FAILURE_REASON_DEADLINE_EXCEEDED


async def test_what_no_worker_can_load_fails_with_the_workers_words(client: Client) -> None:
    job = await client.admit(batches=12)
    cannot = worker_pb2.Status(
        total_credits=1,
        workloads=[worker_pb2.WorkloadStatus(workload="hash-384", unavailable_reason="no such files; run this")],
    )
    async with FakeWorker(client.address).session() as able, FakeWorker(client.address).session() as unable:
        await unable.say(worker_pb2.WorkerFrame(status=cannot))
        await able.offer(1)
        await able.finish(await able.assigned())
        await able.hear("ack")
        await able.goodbye()
        async with asyncio.timeout(STEP_S):
            while (found := await client.job(job.job_id)).state != job_pb2.JOB_STATE_COMPLETED:
                await unable.say(worker_pb2.WorkerFrame(status=cannot))
    assert found.progress.items_succeeded in (2, 4)
    assert found.progress.items_succeeded + found.progress.items_failed == 24
    failed = [b for b in await client.batches(job.job_id) if b.state == job_pb2.BATCH_STATE_FAILED]
    assert {b.failure_reason for b in failed} == {job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE}
    assert {b.failure_message for b in failed} == {"no such files; run this"}


async def test_priorities_go_first(client: Client) -> None:
    filler = await client.admit(batches=8)
    async with asyncio.timeout(STEP_S):
        while True:
            if {b.state for b in await client.batches(filler.job_id)} == {job_pb2.BATCH_STATE_QUEUED}:
                break
            await asyncio.sleep(0.02)
    late = await client.admit(batches=2, priority=5)
    soon = await client.admit(batches=2, priority=1)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        order = []
        for _ in range(12):
            assign = await worker.assigned()
            order.append(assign.job_id)
            await worker.finish(assign)
            await worker.hear("ack")
    assert order[:8] == [filler.job_id] * 8
    assert order[8:] == [soon.job_id] * 2 + [late.job_id] * 2


async def test_losing_redis_costs_recomputation_and_nothing_else(client: Client) -> None:
    job = await client.admit(batches=20)
    async with FakeWorker(client.address).session() as worker:
        await worker.offer(1)
        await worker.finish(await worker.assigned())
        await worker.hear("ack")
        held = await worker.assigned()
        await client.redis.flushall()
        await worker.finish(held)
        await worker.hear("ack")
        finished = 0
        while finished < 19:
            await worker.finish(await worker.assigned())
            await worker.hear("ack")
            finished += 1
    done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert done.progress.items_succeeded == 40
    chunks = await client.results(job.job_id)
    assert sorted(c.first_item for c in chunks) == list(range(0, 40, 2))


async def test_a_scheduler_that_is_killed_loses_nothing(client: Client) -> None:
    job = await client.admit(batches=3)
    worker = FakeWorker(client.address)
    async with worker.session() as session:
        await session.offer(2)
        held = [await session.assigned(), await session.assigned()]
        await client.stack.scheduler.stop(signal.SIGKILL)
    again = await client.stack.start("scheduler")
    worker._address = again.address
    async with worker.session(in_hand=[a.lease for a in held]) as session:
        assert len(session.welcome.resumed) == 2
        for assign in held:
            await session.finish(assign)
            await session.hear("ack")
        await session.offer(2)
        await session.finish(await session.assigned())
        await session.hear("ack")
    async with grpc.aio.insecure_channel(again.address) as channel:
        client.stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        done = await client.reached(job.job_id, job_pb2.JOB_STATE_COMPLETED)
    assert done.progress.items_succeeded == 6
