"""StreamResults and WatchJob through a real gateway and a real Redis: order, resumption, failures, releases."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from typing import Any

import google_crc32c
import grpc
import numpy
import pytest
import pytest_asyncio
import redis.asyncio
from google.rpc import error_details_pb2

from podium.common.v1 import job_pb2, result_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium.scheduler.v1 import scheduler_pb2
from tests.integration import gateway_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPLETED = job_pb2.BATCH_STATE_COMPLETED
FAILED = job_pb2.BATCH_STATE_FAILED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def stream(rig: gateway_rig.Rig, job_id: str, after_cursor: str = "", resume_cursor: str = "") -> Any:
    """The call."""
    return rig.stub.StreamResults(
        gateway_pb2.StreamResultsRequest(job_id=job_id, after_cursor=after_cursor, resume_cursor=resume_cursor),
        metadata=rig.metadata,
        timeout=gateway_rig.STEP_S,
    )


async def read_all(call: Any) -> list[gateway_pb2.StreamResultsResponse]:
    """All messages; the last must be the end."""
    messages: list[gateway_pb2.StreamResultsResponse] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    assert [m.WhichOneof("result") for m in messages].index("end") == len(messages) - 1
    return messages


def covered(messages: list[gateway_pb2.StreamResultsResponse]) -> list[int]:
    """Item indexes in the order in which they came."""
    found: list[int] = []
    for message in messages:
        part = message.chunk if message.HasField("chunk") else message.failure
        found += range(part.first_item, part.first_item + part.item_count)
    return found


def vectors(messages: list[gateway_pb2.StreamResultsResponse]) -> bytes:
    return b"".join(m.chunk.vectors for m in messages)


async def complete(rig: gateway_rig.Rig, job: job_pb2.Job, batch: int, rows_per_chunk: int = 3) -> None:
    """One batch is done, by its position."""
    entry = rig.ledger.batches[job.job_id][batch]
    chunks = gateway_rig.chunks_of(job.job_id, entry.first_item, entry.item_count, rows_per_chunk)
    entry.state = COMPLETED
    await gateway_rig.store(rig.redis, job.job_id, chunks)


async def finish(rig: gateway_rig.Rig, job: job_pb2.Job, state: job_pb2.JobState = job_pb2.JOB_STATE_COMPLETED) -> None:
    job.state = state
    await rig.redis.publish(f"podium:job:{job.job_id}", "state")


async def done_job(rig: gateway_rig.Rig, items: int = 25, batch_items: int = 10) -> job_pb2.Job:
    """A completed job with all its results."""
    job = rig.ledger.add_job("app-a", items, batch_items)
    for batch in range(len(rig.ledger.batches[job.job_id])):
        await complete(rig, job, batch)
    await finish(rig, job)
    return job


async def refused(call: Any, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(call)
    assert caught.value.code() is code, caught.value.details()
    return caught.value


async def test_a_finished_job_comes_whole_and_in_order(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    messages = await read_all(stream(rig, job.job_id))
    assert covered(messages) == list(range(25))
    expected = numpy.repeat(numpy.arange(25, dtype="<f4"), 4)
    assert vectors(messages) == expected.tobytes()
    assert messages[-1].end.job == job
    assert all(m.cursor for m in messages)
    stored = [c for first in (0, 10, 20) for c in gateway_rig.chunks_of(job.job_id, first, min(10, 25 - first), 3)]
    assert [m.chunk for m in messages[:-1]] == stored


async def test_batches_that_arrive_out_of_order_are_delivered_in_order(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 30, 10)
    rig.ledger.looked.clear()
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    async with asyncio.timeout(gateway_rig.STEP_S):
        await rig.ledger.looked.wait()
        for batch in (2, 0, 1):
            await complete(rig, job, batch)
        await finish(rig, job)
        assert covered(await reading) == list(range(30))


async def test_results_flow_before_the_job_is_done(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    call = stream(rig, job.job_id)
    async with asyncio.timeout(gateway_rig.STEP_S):
        await complete(rig, job, 0, rows_per_chunk=10)
        first = await call.read()
        assert (first.chunk.first_item, first.chunk.item_count) == (0, 10)
        await complete(rig, job, 1, rows_per_chunk=10)
        assert (await call.read()).chunk.first_item == 10
        await finish(rig, job)
        assert (await call.read()).end.job.state == job_pb2.JOB_STATE_COMPLETED
        assert await call.code() is grpc.StatusCode.OK


async def test_resuming_at_any_cursor_gives_the_identical_rest(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    whole = await read_all(stream(rig, job.job_id))
    # Later cursors release more, so they come last.
    for seen, message in enumerate(whole[:-1], start=1):
        rest = await read_all(stream(rig, job.job_id, message.cursor))
        assert [m.SerializeToString(deterministic=True) for m in rest[:-1]] == [
            m.SerializeToString(deterministic=True) for m in whole[seen:-1]
        ]
    assert [before for job_id, before in rig.ledger.released if job_id == job.job_id] == [10] * 4 + [20] * 2 + [25]


async def test_a_cursor_at_the_end_gives_only_the_end(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    whole = await read_all(stream(rig, job.job_id))
    again = await read_all(stream(rig, job.job_id, whole[-1].cursor))
    assert [m.WhichOneof("result") for m in again] == ["end"]


async def test_a_killed_client_resumes_byte_identical(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig, items=200, batch_items=20)
    call = stream(rig, job.job_id)
    got = [await call.read() for _ in range(23)]
    call.cancel()
    got += await read_all(stream(rig, job.job_id, got[-1].cursor))
    assert covered(got) == list(range(200))
    assert vectors(got) == numpy.repeat(numpy.arange(200, dtype="<f4"), 4).tobytes()


async def test_failed_batches_are_told_at_their_place(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 50, 10)
    batches = rig.ledger.batches[job.job_id]
    call = stream(rig, job.job_id)
    async with asyncio.timeout(gateway_rig.STEP_S):
        for batch in (0, 3, 4):
            await complete(rig, job, batch, rows_per_chunk=10)
        for batch in (1, 2):
            batches[batch].state = FAILED
            batches[batch].failure_reason = job_pb2.BATCH_FAILURE_REASON_WORKER_LOST
            batches[batch].failure_message = "no worker survived it"
        await finish(rig, job)
        messages = await read_all(call)
    assert [m.WhichOneof("result") for m in messages] == ["chunk", "failure", "failure", "chunk", "chunk", "end"]
    assert covered(messages) == list(range(50))
    assert messages[1].failure == result_pb2.BatchFailure(
        job_id=job.job_id,
        first_item=10,
        item_count=10,
        reason=job_pb2.BATCH_FAILURE_REASON_WORKER_LOST,
        message="no worker survived it",
    )
    rest = await read_all(stream(rig, job.job_id, messages[1].cursor))
    assert rest == messages[2:-1] + rest[-1:]


@pytest.mark.parametrize("state", [job_pb2.BATCH_STATE_CANCELLED, job_pb2.BATCH_STATE_EXPIRED])
async def test_a_job_without_any_result_ends_with_failures(rig: gateway_rig.Rig, state: job_pb2.BatchState) -> None:
    job = rig.ledger.add_job("app-a", 1500, 10)
    for batch in rig.ledger.batches[job.job_id]:
        batch.state = state
    await finish(rig, job, job_pb2.JOB_STATE_CANCELLED)
    messages = await read_all(stream(rig, job.job_id))
    assert covered(messages) == list(range(1500))
    assert messages[-1].end.job.state == job_pb2.JOB_STATE_CANCELLED


async def test_a_split_batch_is_followed_into_its_parts(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 10, 10)
    parts = [
        job_pb2.BATCH_STATE_COMPLETED,
        job_pb2.BATCH_STATE_FAILED,
        job_pb2.BATCH_STATE_COMPLETED,
    ]
    rig.ledger.batches[job.job_id] = [
        scheduler_pb2.Batch(first_item=first, item_count=count, state=state)
        for (first, count), state in zip([(0, 5), (5, 1), (6, 4)], parts, strict=True)
    ]
    for batch in (0, 2):
        await complete(rig, job, batch)
    await finish(rig, job)
    assert covered(await read_all(stream(rig, job.job_id))) == list(range(10))


async def test_recomputed_results_cut_otherwise_go_on_at_the_very_item(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig, items=20, batch_items=10)
    call = stream(rig, job.job_id)
    first = await call.read()
    call.cancel()
    assert first.chunk.item_count == 3
    await rig.redis.delete(f"podium:index:{{{job.job_id}}}", f"podium:chunks:{{{job.job_id}}}")
    for batch in (0, 1):
        await complete(rig, job, batch, rows_per_chunk=5)
    rest = await read_all(stream(rig, job.job_id, first.cursor))
    assert covered([first, *rest]) == list(range(20))
    assert vectors([first, *rest]) == numpy.repeat(numpy.arange(20, dtype="<f4"), 4).tobytes()
    assert rest[0].chunk.crc32c == google_crc32c.value(rest[0].chunk.vectors)


async def test_results_that_redis_lost_are_waited_for(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig, items=10, batch_items=10)
    await rig.redis.delete(f"podium:index:{{{job.job_id}}}", f"podium:chunks:{{{job.job_id}}}")
    rig.ledger.calls.clear()
    rig.ledger.looked.clear()
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    async with asyncio.timeout(gateway_rig.STEP_S):
        while "ListBatches" not in rig.ledger.calls:
            rig.ledger.looked.clear()
            await rig.ledger.looked.wait()
        assert not reading.done()
        await complete(rig, job, 0)
        assert covered(await reading) == list(range(10))


async def test_without_wake_ups_polling_finds_results(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 10, 10)
    rig.ledger.looked.clear()
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    async with asyncio.timeout(gateway_rig.STEP_S):
        await rig.ledger.looked.wait()
        chunks = gateway_rig.chunks_of(job.job_id, 0, 10, 10)
        await gateway_rig.store(rig.redis, job.job_id, chunks, publish=False)
        job.state = job_pb2.JOB_STATE_COMPLETED
        assert covered(await reading) == list(range(10))


async def test_a_batch_larger_than_one_read_comes_whole(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 40, 20)
    for first in (0, 20):
        chunks = gateway_rig.chunks_of(job.job_id, first, 20, 1)
        for chunk in chunks:
            # Never looked at by the gateway: the bulk of 0.5 MB that makes several reads of a batch.
            chunk.vectors += bytes(500_000)
        await gateway_rig.store(rig.redis, job.job_id, chunks)
    await finish(rig, job)
    channel_options = (("grpc.max_receive_message_length", 64 << 20),)
    async with grpc.aio.insecure_channel(rig.gateway.address, options=channel_options) as channel:
        stub: Any = gateway_pb2_grpc.GatewayServiceStub(channel)
        request = gateway_pb2.StreamResultsRequest(job_id=job.job_id)
        messages = await read_all(stub.StreamResults(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S))
    assert covered(messages) == list(range(40))
    assert [m.chunk.chunk_index for m in messages[:-1]] == [*range(20), *range(20)]


async def test_a_resumed_stream_goes_on_and_releases_nothing(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    whole = await read_all(stream(rig, job.job_id))
    for place in (2, 5):
        assert await read_all(stream(rig, job.job_id, "", whole[place].cursor)) == whole[place + 1 :]
    assert not [released for released in rig.ledger.released if released[0] == job.job_id]
    assert await read_all(stream(rig, job.job_id)) == whole


async def test_a_resumed_stream_may_acknowledge_less_than_it_has(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig, items=30)
    whole = await read_all(stream(rig, job.job_id))
    durable = next(m.cursor for m in whole if covered([m])[-1] == 9)
    received = next(m.cursor for m in whole if covered([m])[-1] == 19)
    assert covered(await read_all(stream(rig, job.job_id, durable, received))) == list(range(20, 30))
    assert [item for job_id, item in rig.ledger.released if job_id == job.job_id] == [10]


async def test_released_results_are_out_of_range(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    whole = await read_all(stream(rig, job.job_id))
    await read_all(stream(rig, job.job_id, whole[5].cursor))
    for cursor in ("", whole[0].cursor):
        error = await refused(stream(rig, job.job_id, cursor), grpc.StatusCode.OUT_OF_RANGE)
        assert gateway_rig.reason(error) == "RESULTS_RELEASED"
        assert gateway_rig.detail(error, error_details_pb2.ErrorInfo).metadata["items_released"] == "10"


async def test_expired_results_are_out_of_range_and_the_end_is_not(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    whole = await read_all(stream(rig, job.job_id))
    await read_all(stream(rig, job.job_id, whole[5].cursor))
    job.expire_time.FromJsonString("2026-11-20T00:00:00Z")
    job.results_expired = True
    for cursor, reason in ((whole[0].cursor, "RESULTS_RELEASED"), (whole[5].cursor, "RESULTS_EXPIRED")):
        error = await refused(stream(rig, job.job_id, cursor), grpc.StatusCode.OUT_OF_RANGE)
        assert gateway_rig.reason(error) == reason
    assert gateway_rig.detail(error, error_details_pb2.ErrorInfo).metadata["expire_time"] == "2026-11-20T00:00:00Z"
    last = await read_all(stream(rig, job.job_id, whole[-1].cursor))
    assert [m.WhichOneof("result") for m in last] == ["end"]


async def test_results_that_expire_ahead_of_an_open_stream_are_out_of_range(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    call = stream(rig, job.job_id)
    async with asyncio.timeout(gateway_rig.STEP_S):
        await complete(rig, job, 0, rows_per_chunk=10)
        await call.read()
        job.results_expired = True
        rig.ledger.batches[job.job_id].clear()
        await finish(rig, job)
        error = await refused(call, grpc.StatusCode.OUT_OF_RANGE)
    assert gateway_rig.reason(error) == "RESULTS_EXPIRED"


async def test_results_released_ahead_of_an_open_stream_are_out_of_range(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    call = stream(rig, job.job_id)
    async with asyncio.timeout(gateway_rig.STEP_S):
        await complete(rig, job, 0, rows_per_chunk=10)
        await call.read()
        job.progress.items_released = 20
        rig.ledger.batches[job.job_id][1].state = job_pb2.BATCH_STATE_DELIVERED
        await finish(rig, job)
        error = await refused(call, grpc.StatusCode.OUT_OF_RANGE)
    assert gateway_rig.reason(error) == "RESULTS_RELEASED"


def _damaged(cursor: str) -> str:
    raw = bytearray(base64.urlsafe_b64decode(cursor))
    raw[-5] ^= 1
    return base64.urlsafe_b64encode(raw).decode()


async def test_bad_cursors(rig: gateway_rig.Rig) -> None:
    job, other = await done_job(rig), await done_job(rig)
    good = (await read_all(stream(rig, job.job_id)))[0].cursor
    foreign = (await read_all(stream(rig, other.job_id)))[0].cursor
    large = await done_job(rig, items=50)
    for bad in ("%%%", "AAAA", "é", good[:-1], good + "AAAA", _damaged(good), foreign):
        error = await refused(stream(rig, job.job_id, bad), grpc.StatusCode.INVALID_ARGUMENT)
        assert gateway_rig.fields(error) == ["after_cursor"]
    beyond = (await read_all(stream(rig, large.job_id)))[-1].cursor
    rig.ledger.jobs[large.job_id].progress.items_total = 25
    error = await refused(stream(rig, large.job_id, beyond), grpc.StatusCode.INVALID_ARGUMENT)
    assert gateway_rig.fields(error) == ["after_cursor"]


async def test_a_bad_resume_cursor_releases_nothing(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    good = (await read_all(stream(rig, job.job_id)))[-1].cursor
    error = await refused(stream(rig, job.job_id, good, _damaged(good)), grpc.StatusCode.INVALID_ARGUMENT)
    assert gateway_rig.fields(error) == ["resume_cursor"]
    assert not [released for released in rig.ledger.released if released[0] == job.job_id]


async def test_a_client_that_goes_away_leaves_nothing_behind(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 10, 10)
    channel = f"podium:job:{job.job_id}"
    call = stream(rig, job.job_id)
    watching = rig.stub.WatchJob(gateway_pb2.WatchJobRequest(job_id=job.job_id), metadata=rig.metadata)
    await watching.read()
    await _until_subscribers(rig, channel, 1)
    call.cancel()
    watching.cancel()
    await _until_subscribers(rig, channel, 0)


async def _until_subscribers(rig: gateway_rig.Rig, channel: str, count: int) -> None:
    async with asyncio.timeout(gateway_rig.STEP_S):
        while (await rig.redis.pubsub_numsub(channel))[0][1] != count:
            pass


async def test_many_streams_share_few_connections(rig: gateway_rig.Rig) -> None:
    jobs = [rig.ledger.add_job("app-a", 10, 10) for _ in range(150)]
    reading = [asyncio.create_task(read_all(stream(rig, job.job_id))) for job in jobs]
    for job in jobs:
        await _until_subscribers(rig, f"podium:job:{job.job_id}", 1)
    for job in jobs:
        await complete(rig, job, 0)
        await finish(rig, job)
    for messages in await asyncio.gather(*reading):
        assert covered(messages) == list(range(10))
    assert len(await rig.redis.client_list()) <= 32 + 2


async def test_an_unknown_job(rig: gateway_rig.Rig) -> None:
    error = await refused(stream(rig, str(uuid.uuid4())), grpc.StatusCode.NOT_FOUND)
    assert gateway_rig.reason(error) == "JOB_NOT_FOUND"


async def test_watch_tells_of_each_change_until_the_final_one(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    request = gateway_pb2.WatchJobRequest(job_id=job.job_id)
    watching = rig.stub.WatchJob(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    assert (await watching.read()).job.progress.items_succeeded == 0
    for succeeded in (10, 20):
        job.progress.items_succeeded = succeeded
        await rig.redis.publish(f"podium:job:{job.job_id}", "progress")
        assert (await watching.read()).job.progress.items_succeeded == succeeded
    await finish(rig, job)
    assert (await watching.read()).job.state == job_pb2.JOB_STATE_COMPLETED
    assert await watching.read() is grpc.aio.EOF
    assert await watching.code() is grpc.StatusCode.OK


async def test_watch_coalesces_a_storm_of_wake_ups(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    request = gateway_pb2.WatchJobRequest(job_id=job.job_id)
    watching = rig.stub.WatchJob(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    await watching.read()
    rig.ledger.calls.clear()
    for succeeded in range(1, 200):
        job.progress.items_succeeded = succeeded
        await rig.redis.publish(f"podium:job:{job.job_id}", "progress")
    await finish(rig, job)
    seen = []
    while (message := await watching.read()) is not grpc.aio.EOF:
        seen.append(message.job)
    assert seen[-1].state == job_pb2.JOB_STATE_COMPLETED
    assert rig.ledger.calls.count("GetJob") <= 5


async def test_watch_of_a_final_job_says_it_once(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    request = gateway_pb2.WatchJobRequest(job_id=job.job_id)
    watching = rig.stub.WatchJob(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    assert [m.job async for m in watching] == [job]


async def test_without_redis_streams_are_unavailable_and_watching_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    ledger = gateway_rig.Ledger()
    async with gateway_rig.fake_scheduler(ledger) as scheduler:
        server = gateway_rig.redis_server(folder / "redis")
        url = await server.__aenter__()
        async with (
            gateway_rig.gateway(scheduler, url, folder) as running,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            stub: Any = gateway_pb2_grpc.GatewayServiceStub(channel)
            metadata = (("authorization", "Bearer token-of-a"),)
            job = ledger.add_job("app-a", 20, 10)
            watching = stub.WatchJob(
                gateway_pb2.WatchJobRequest(job_id=job.job_id), metadata=metadata, timeout=gateway_rig.STEP_S
            )
            await watching.read()
            await server.__aexit__(None, None, None)
            call = stub.StreamResults(
                gateway_pb2.StreamResultsRequest(job_id=job.job_id), metadata=metadata, timeout=gateway_rig.STEP_S
            )
            error = await refused(call, grpc.StatusCode.UNAVAILABLE)
            assert gateway_rig.reason(error) == "RESULTS_UNAVAILABLE"
            assert gateway_rig.detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 1
            job.state = job_pb2.JOB_STATE_COMPLETED
            assert (await watching.read()).job.state == job_pb2.JOB_STATE_COMPLETED


async def test_wake_ups_come_back_with_redis(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    ledger = gateway_rig.Ledger()
    async with gateway_rig.fake_scheduler(ledger) as scheduler:
        first = gateway_rig.redis_server(folder / "redis")
        url = await first.__aenter__()
        async with (
            gateway_rig.gateway(scheduler, url, folder) as running,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            stub: Any = gateway_pb2_grpc.GatewayServiceStub(channel)
            job = ledger.add_job("app-a", 20, 10)
            watching = stub.WatchJob(
                gateway_pb2.WatchJobRequest(job_id=job.job_id),
                metadata=(("authorization", "Bearer token-of-a"),),
                timeout=gateway_rig.START_S,
            )
            await watching.read()
            await first.__aexit__(None, None, None)
            async with (
                gateway_rig.redis_server(folder / "redis") as url,
                redis.asyncio.Redis.from_url(url) as client,
            ):
                rig = gateway_rig.Rig(ledger, client, running, channel, stub)
                await _until_subscribers(rig, f"podium:job:{job.job_id}", 1)
                await finish(rig, job)
                assert (await watching.read()).job.state == job_pb2.JOB_STATE_COMPLETED


async def test_a_gateway_that_shuts_down_ends_its_streams_so_that_clients_resume(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as rig:
        job = rig.ledger.add_job("app-a", 20, 10)
        call = stream(rig, job.job_id)
        await complete(rig, job, 0, rows_per_chunk=10)
        await call.read()
        rig.gateway.process.terminate()
        # On a busy machine the closing connection may overtake the trailers with the reason; the code stays the same.
        await refused(call, grpc.StatusCode.UNAVAILABLE)
        async with asyncio.timeout(gateway_rig.STEP_S):
            assert await rig.gateway.process.wait() == 0


async def just_admitted(rig: gateway_rig.Rig, items: int) -> job_pb2.Job:
    """A job that this gateway has accepted a moment ago."""
    answer = await rig.stub.SubmitBatch(gateway_rig.submission(items), metadata=rig.metadata)
    rig.ledger.calls.clear()
    return rig.ledger.jobs[answer.job.job_id]


async def test_a_job_that_was_just_admitted_is_not_asked_for(rig: gateway_rig.Rig) -> None:
    job = await just_admitted(rig, 10)
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    await _until_subscribers(rig, f"podium:job:{job.job_id}", 1)
    assert "GetJob" not in rig.ledger.calls
    await complete(rig, job, 0)
    await finish(rig, job)
    messages = await reading
    assert covered(messages) == list(range(10))
    assert messages[-1].end.job.state == job_pb2.JOB_STATE_COMPLETED


async def test_another_app_does_not_find_a_job_that_was_just_admitted(rig: gateway_rig.Rig) -> None:
    job = await just_admitted(rig, 10)
    call = rig.stub.StreamResults(
        gateway_pb2.StreamResultsRequest(job_id=job.job_id),
        metadata=(("authorization", "Bearer token-of-b"),),
        timeout=gateway_rig.STEP_S,
    )
    assert gateway_rig.reason(await refused(call, grpc.StatusCode.NOT_FOUND)) == "JOB_NOT_FOUND"


async def test_what_is_released_of_a_job_that_was_just_admitted_is_refused(rig: gateway_rig.Rig) -> None:
    job = await just_admitted(rig, 10)
    rig.ledger.batches[job.job_id][0].state = job_pb2.BATCH_STATE_DELIVERED
    error = await refused(stream(rig, job.job_id), grpc.StatusCode.OUT_OF_RANGE)
    assert gateway_rig.reason(error) == "RESULTS_RELEASED"


async def test_acknowledging_all_of_a_finished_job_takes_one_call(rig: gateway_rig.Rig) -> None:
    job = await just_admitted(rig, 10)
    await complete(rig, job, 0)
    await finish(rig, job)
    cursor = (await read_all(stream(rig, job.job_id)))[-1].cursor
    rig.ledger.calls.clear()
    (last,) = await read_all(stream(rig, job.job_id, after_cursor=cursor))
    assert last.end.job.state == job_pb2.JOB_STATE_COMPLETED
    assert rig.ledger.calls == ["ReleaseResults"]
