"""ConsumeResults at the wire: what a gateway takes, refuses and promises, with a scheduler in the test's hands."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
import pytest_asyncio

from podium.common.v1 import job_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import consume
from tests.integration import gateway_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPLETED = job_pb2.BATCH_STATE_COMPLETED
Request = gateway_pb2.ConsumeResultsRequest
numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: gateway_rig.Rig) -> gateway_rig.Rig:
    """The same processes, nothing left of the test before."""
    ledger = shared.ledger
    ledger.offers, ledger.advances, ledger.opened, ledger.consumer_lost = [], [], [], False
    ledger.closed = asyncio.Queue()
    return shared


def hello(group: str = "writers", window: int = 10, workload: str = "") -> Request:
    return Request(hello=gateway_pb2.ConsumerHello(group=group, window=window, workload=workload))


def ack(delivery_id: str) -> Request:
    return Request(ack=gateway_pb2.DeliveryAck(delivery_id=delivery_id))


def open_stream(rig: gateway_rig.Rig) -> Any:
    return rig.stub.ConsumeResults(metadata=rig.metadata, timeout=gateway_rig.STEP_S)


async def refused(rig: gateway_rig.Rig, frames: Sequence[Request | bytes]) -> list[str]:
    """The paths that INVALID_ARGUMENT names for these frames."""
    if any(isinstance(frame, bytes) for frame in frames):
        method = "/podium.gateway.v1.GatewayService/ConsumeResults"
        call: Any = rig.channel.stream_stream(method)(metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    else:
        call = open_stream(rig)
    with suppress(grpc.aio.AioRpcError):
        for frame in frames:
            await call.write(frame)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return gateway_rig.fields(caught.value)


async def offer(rig: gateway_rig.Rig, items: int = 10, rows_per_chunk: int = 5, *, stored: bool = True) -> int:
    """A finished batch of a job of its own; returns the delivery's number."""
    job = rig.ledger.add_job("app-a", items, items)
    if stored:
        await gateway_rig.store(rig.redis, job.job_id, gateway_rig.chunks_of(job.job_id, 0, items, rows_per_chunk))
    batch = scheduler_pb2.Batch(first_item=0, item_count=items, state=COMPLETED, attempt=1)
    delivery = scheduler_pb2.Delivery(delivery=next(numbers), job_id=job.job_id, batch=batch)
    rig.ledger.offers.append(delivery)
    await rig.redis.publish("podium:group:7", "deliveries")
    return delivery.delivery


async def started(rig: gateway_rig.Rig, **fields: Any) -> Any:
    """A stream whose hello was taken."""
    call = open_stream(rig)
    await call.write(hello(**fields))
    return call


async def until_advance(rig: gateway_rig.Rig, wanted: Any) -> scheduler_pb2.AdvanceConsumerRequest:
    """The first call of the gateway to the scheduler that `wanted` says yes to."""
    async with asyncio.timeout(gateway_rig.STEP_S):
        while True:
            for request in rig.ledger.advances:
                if wanted(request):
                    return request
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("frames", "fields"),
    [
        ([ack("1-0-00000000")], ["hello"]),
        ([Request()], ["hello"]),
        ([hello(group="")], ["hello.group"]),
        ([hello(group="-a")], ["hello.group"]),
        ([hello(group="a" * 64)], ["hello.group"]),
        ([hello(window=0)], ["hello.window"]),
        ([hello(window=1001)], ["hello.window"]),
        ([hello(workload="none such")], ["hello.workload"]),
        ([hello(group="A", window=0)], ["hello.group", "hello.window"]),
        ([hello(), hello()], ["hello"]),
        ([hello(), Request()], ["frame"]),
        ([hello(), ack("")], ["ack.delivery_id"]),
        ([hello(), ack("sqrt(2)")], ["ack.delivery_id"]),
        ([hello().SerializeToString(), b"\xff\xff"], [""]),
    ],
)
async def test_bad_frames_are_refused_by_name(
    rig: gateway_rig.Rig, frames: Sequence[Request | bytes], fields: list[str]
) -> None:
    assert await refused(rig, frames) == fields


async def test_a_stream_without_any_frame_is_refused(rig: gateway_rig.Rig) -> None:
    call = open_stream(rig)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert gateway_rig.fields(caught.value) == ["hello"]


async def test_without_a_good_token_nothing_is_consumed(rig: gateway_rig.Rig) -> None:
    call = rig.stub.ConsumeResults(metadata=(("authorization", "Bearer nonsense"),), timeout=gateway_rig.STEP_S)
    # Without a hello: a write that crosses the refusal would hide it (github.com/grpc/grpc/issues/36066).
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert rig.ledger.opened == []


async def test_the_token_decides_whose_results_are_consumed(rig: gateway_rig.Rig) -> None:
    for token in ("token-of-a", "token-of-b"):
        call = rig.stub.ConsumeResults(metadata=(("authorization", f"Bearer {token}"),), timeout=gateway_rig.STEP_S)
        await call.write(hello(group="g", workload="texts"))
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert [(r.app_id, r.group, r.workload) for r in rig.ledger.opened] == [
        ("app-a", "g", "texts"), ("app-b", "g", "texts"),
    ]  # fmt: skip


async def test_a_batch_comes_chunk_by_chunk_and_is_settled_by_its_last_acknowledgement(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    delivery = await offer(rig, items=10, rows_per_chunk=5)
    got = [await call.read() for _ in range(2)]
    assert [(m.chunk.first_item, m.chunk.item_count) for m in got] == [(0, 5), (5, 5)]
    await call.write(ack(got[1].delivery_id))
    still = await until_advance(rig, lambda r: delivery in r.held)
    assert delivery not in still.acknowledged
    await call.write(ack(got[0].delivery_id))
    await until_advance(rig, lambda r: list(r.acknowledged) == [delivery])
    call.cancel()


async def test_the_window_holds_chunks_back(rig: gateway_rig.Rig) -> None:
    call = await started(rig, window=1)
    await offer(rig, items=10, rows_per_chunk=5)
    first = await call.read()
    second = asyncio.create_task(call.read())
    await until_advance(rig, lambda r: len(r.held) == 1 and r.limit == 0)
    assert not second.done()
    await call.write(ack(first.delivery_id))
    assert (await second).chunk.first_item == 5
    call.cancel()


async def test_what_is_acknowledged_before_the_consumer_leaves_is_settled_before_the_ok(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    done, left = await offer(rig, items=5), await offer(rig, items=5)
    first, _ = [await call.read() for _ in range(2)]
    await call.write(ack(first.delivery_id))
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    closes = [rig.ledger.closed.get_nowait() for _ in range(rig.ledger.closed.qsize())]
    told = [request.acknowledged for request in rig.ledger.advances] + [request.acknowledged for request in closes]
    settled = [delivery for acknowledged in told for delivery in acknowledged]
    assert done in settled
    assert left not in settled


async def test_acknowledgements_of_what_is_not_out_are_ignored(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    delivery = await offer(rig, items=5)
    got = await call.read()
    other_stream = f"{delivery}-0-{'0' * 8}"
    for delivery_id in (other_stream, got.delivery_id.replace("-0-", "-7-"), got.delivery_id, got.delivery_id):
        await call.write(ack(delivery_id))
    await until_advance(rig, lambda r: list(r.acknowledged) == [delivery])
    call.cancel()


async def test_failures_and_jobs_are_delivered_too(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    job = rig.ledger.add_job("app-a", 10, 10)
    job.state = job_pb2.JOB_STATE_COMPLETED
    batch = scheduler_pb2.Batch(
        first_item=0,
        item_count=10,
        state=job_pb2.BATCH_STATE_FAILED,
        failure_reason=job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY,
        failure_message="too big",
    )
    rig.ledger.offers += [
        scheduler_pb2.Delivery(delivery=next(numbers), job_id=job.job_id, batch=batch),
        scheduler_pb2.Delivery(delivery=next(numbers), job_id=job.job_id, job=job),
    ]
    await rig.redis.publish("podium:group:7", "deliveries")
    failure, end = (await call.read()).failure, (await call.read()).job
    assert (failure.job_id, failure.first_item, failure.item_count) == (job.job_id, 0, 10)
    assert (failure.reason, failure.message) == (job_pb2.BATCH_FAILURE_REASON_OUT_OF_MEMORY, "too big")
    assert end == job
    call.cancel()


async def test_results_that_are_not_in_the_store_go_back_and_the_next_ones_come(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    lost = await offer(rig, items=5, stored=False)
    kept = await offer(rig, items=5)
    got = await call.read()
    assert got.delivery_id.startswith(f"{kept}-")
    await until_advance(rig, lambda r: list(r.returned) == [lost])
    call.cancel()


async def offer_bulky(rig: gateway_rig.Rig, items: int) -> scheduler_pb2.Delivery:
    """A batch of which 30 items are stored, five a chunk, so large that the gateway reads four chunks at a time."""
    job = rig.ledger.add_job("app-a", 30, 30)
    chunks = gateway_rig.chunks_of(job.job_id, 0, 30, 5)
    for chunk in chunks:
        chunk.keys.append("k" * (consume.READ_BYTES // 4 + 1))
    await gateway_rig.store(rig.redis, job.job_id, chunks)
    batch = scheduler_pb2.Batch(first_item=0, item_count=items, state=COMPLETED, attempt=1)
    delivery = scheduler_pb2.Delivery(delivery=next(numbers), job_id=job.job_id, batch=batch)
    rig.ledger.offers.append(delivery)
    await rig.redis.publish("podium:group:7", "deliveries")
    return delivery


async def test_no_id_names_two_messages_when_a_delivery_is_lost_on_its_way_and_comes_again(
    rig: gateway_rig.Rig,
) -> None:
    call = await started(rig, window=1)
    offered = await offer_bulky(rig, items=30)
    seen = [(await call.read()).delivery_id]
    await rig.redis.delete(f"podium:chunks:{{{offered.job_id}}}", f"podium:index:{{{offered.job_id}}}")
    for _ in range(3):
        await call.write(ack(seen[-1]))
        seen.append((await call.read()).delivery_id)
    await call.write(ack(seen[-1]))
    await until_advance(rig, lambda r: list(r.returned) == [offered.delivery])
    # Computed again, in other chunks.
    await gateway_rig.store(rig.redis, offered.job_id, gateway_rig.chunks_of(offered.job_id, 0, 30, 10))
    rig.ledger.offers.append(offered)
    await rig.redis.publish("podium:group:7", "deliveries")
    again = await call.read()
    assert again.chunk.item_count == 10
    assert again.delivery_id not in seen
    call.cancel()


async def test_a_half_that_finds_the_result_of_the_whole_is_sent_once_and_settled(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    offered = await offer_bulky(rig, items=10)
    for first_item in (0, 5):
        got = await call.read()
        assert got.chunk.first_item == first_item
        await call.write(ack(got.delivery_id))
    await until_advance(rig, lambda r: list(r.acknowledged) == [offered.delivery])
    call.cancel()


async def test_a_job_that_goes_on_is_not_told_to_be_over(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    job = job_pb2.Job()
    job.CopyFrom(rig.ledger.add_job("app-a", 10, 10))
    job.state = job_pb2.JOB_STATE_RUNNING
    goes_on = scheduler_pb2.Delivery(delivery=next(numbers), job_id=job.job_id, job=job)
    rig.ledger.offers.append(goes_on)
    kept = await offer(rig, items=5)
    assert (await call.read()).delivery_id.startswith(f"{kept}-")
    await until_advance(rig, lambda r: list(r.returned) == [goes_on.delivery])
    call.cancel()


async def test_a_lost_lease_ends_the_stream_so_that_the_consumer_comes_again(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    await until_advance(rig, lambda r: True)
    rig.ledger.consumer_lost = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway_rig.reason(caught.value) == "CONSUMER_LOST"


async def test_a_consumer_that_is_cancelled_gives_back_what_it_holds(rig: gateway_rig.Rig) -> None:
    call = await started(rig)
    delivery = await offer(rig, items=5)
    tag = (await call.read()).delivery_id.rsplit("-", 1)[1]
    call.cancel()
    # Streams of the tests before may still be closing.
    async with asyncio.timeout(gateway_rig.STEP_S):
        while not (closed := await rig.ledger.closed.get()).consumer_id.startswith(tag):
            continue
    assert delivery not in closed.acknowledged


async def test_a_slow_consumer_keeps_its_lease_and_gets_no_more_than_its_window(rig: gateway_rig.Rig) -> None:
    call = await started(rig, window=3)
    offered = [await offer(rig, items=5) for _ in range(5)]
    # Nothing is read. After the first look the gateway holds the window's three, and goes on renewing.
    await until_advance(rig, lambda r: list(r.held) == offered[:3] and r.limit == 0)
    renewals = len(rig.ledger.advances)
    await until_advance(rig, lambda r: len(rig.ledger.advances) >= renewals + 2)
    assert [d.delivery for d in rig.ledger.offers] == offered[3:]
    call.cancel()


async def test_shutdown_ends_the_stream_with_unavailable(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with gateway_rig.rig(tmp_path_factory.mktemp("leaving")) as rig:
        call = await started(rig)
        await until_advance(rig, lambda r: True)
        rig.gateway.process.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert gateway_rig.reason(caught.value) == "SHUTTING_DOWN"
        async with asyncio.timeout(gateway_rig.STEP_S):
            await rig.ledger.closed.get()
