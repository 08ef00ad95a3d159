"""Interactive calls on the real stack: what they answer, when they are refused, and that they go first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from podium.common.v1 import item_pb2, result_pb2
from podium_client import AsyncClient
from podium_client.embedding import CallProgress
from podium_runtime import errors
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import embed_calls, image_server, pictures, processes, stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

STEP_S = 90.0
DELAY_S = 0.1
FETCH_PER_HOST = 8
"""The worker's default."""
SHARE_ITEMS, MOST_CALLS = 320, 600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stack.Stack]:
    """One worker whose micro-batches of 16 take 100 ms; those of less take as long, so they are not cut for calls."""
    folder = tmp_path_factory.mktemp("stack")
    async with stack.running(
        folder, fault_delay_s=str(DELAY_S), call_slice_s="0", gateway_embed_calls="4", fetch_allow="127.0.0.1"
    ) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def caller(running: stack.Stack) -> AsyncIterator[embed_calls.Caller]:
    async with embed_calls.caller(running) as found:
        await found.warm()
        yield found


async def test_demand_alone_loads_the_model(running: stack.Stack) -> None:
    async with embed_calls.caller(running) as caller, asyncio.timeout(STEP_S):
        refusals = await caller.warm("hash-1024")
        assert refusals, "nobody had loaded it"
        assert all(0 < error.retry_after_s <= 600 for error in refusals)
        answer = await caller.embed(["a"], "hash-1024")
        assert answer.chunk.dimension == 1024


async def test_an_answer_equals_what_a_job_would_have_brought(running: stack.Stack, caller: embed_calls.Caller) -> None:
    texts = ["short", "Ünïcödé 😀", "x" * 500]
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        bulk = await client.embed_texts(texts, workload="hash-384")
        answer = await caller.embed(texts)
    np.testing.assert_array_equal(embed_calls.rows(answer), bulk.vectors)
    assert list(answer.chunk.keys) == ["k0", "k1", "k2"]
    assert answer.chunk.provenance.backend == "hash"
    assert answer.HasField("compute_time")


async def test_calls_go_ahead_of_a_saturating_job(running: stack.Stack, caller: embed_calls.Caller) -> None:
    # 63 micro-batches: 6 s.
    texts = [f"bulk {n}" for n in range(1_000)]
    reached = asyncio.Event()

    def progress(call: CallProgress) -> None:
        if call.items_done:
            reached.set()

    times: list[float] = []
    loop = asyncio.get_running_loop()
    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        job = asyncio.create_task(client.embed_texts(texts, workload="hash-384", progress=progress))
        await reached.wait()
        for number in range(10):
            began = loop.time()
            answer = await caller.embed([f"query {number}"])
            times.append(loop.time() - began)
            np.testing.assert_array_equal(embed_calls.rows(answer), hash_vectors([f"query {number}".encode()], 384))
        assert not job.done(), "the calls were not beside the job"
        result = await job
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in texts], 384))
    # At most the rest of one micro-batch and their own, and much leeway for a busy machine; a job's turn is 6 s.
    assert sorted(times)[len(times) // 2] < 10 * DELAY_S


async def test_a_job_keeps_its_share_of_a_device_that_calls_saturate(
    running: stack.Stack, caller: embed_calls.Caller
) -> None:
    """Calls of another workload cannot ride along, and take the device for themselves."""
    (worker,) = running.workers
    await caller.warm("hash-1024")
    texts = [f"share {n}" for n in range(SHARE_ITEMS + 160)]
    enough = asyncio.Event()
    answered = 0

    async def saturate() -> None:
        nonlocal answered
        while not enough.is_set() and answered < MOST_CALLS:
            await caller.embed(["q"], "hash-1024")
            answered += 1

    async def computed() -> float:
        return await processes.metric(worker.metrics, "podium_worker_items_computed_total", workload="hash-384")

    async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client, asyncio.timeout(STEP_S):
        before = await computed()
        # While one call is on the device, three more wait: as many as the app may have.
        callers = [asyncio.create_task(saturate()) for _ in range(4)]
        job = asyncio.create_task(client.embed_texts(texts, workload="hash-384"))
        while await computed() - before < SHARE_ITEMS and answered < MOST_CALLS:  # noqa: ASYNC110 - another process
            await asyncio.sleep(DELAY_S)
        progress = await computed() - before
        enough.set()
        await asyncio.gather(*callers)
        await job
    # A turn takes as long as a micro-batch and has at most four calls. Beyond half of the device's time calls have one
    # second: 20 micro-batches and their like make 120 calls at most; the rest is leeway for a busy machine.
    assert progress >= SHARE_ITEMS, f"{progress:.0f} items of the job beside {answered} calls"


async def test_images_of_calls_are_fetched_while_a_job_has_all_connections_to_their_host(running: stack.Stack) -> None:
    held = asyncio.Event()
    good = pictures.make("jpeg")
    async with (
        image_server.ImageServer() as server,
        embed_calls.caller(running) as caller,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        asyncio.timeout(STEP_S),
    ):
        slow, quick = server.held("/slow", good, held), server.serve("/quick", good)
        # A job loads the model.
        expected = await client.embed_images([good], workload="hash-image")
        job = asyncio.create_task(client.embed_images([f"{slow}?{n}" for n in range(64)], workload="hash-image"))
        await server.until(lambda: server.most_at_once == FETCH_PER_HOST, STEP_S)
        answer = await caller.images([item_pb2.ImageItem(url=quick)], "hash-image")
        assert not job.done(), "the call was not beside the job"
        held.set()
        result = await job
    np.testing.assert_array_equal(embed_calls.rows(answer), expected.vectors)
    np.testing.assert_array_equal(result.vectors, np.repeat(expected.vectors, 64, axis=0))


async def test_an_app_has_so_many_calls_and_no_more(caller: embed_calls.Caller) -> None:
    calls = [asyncio.create_task(caller.embed([f"q{n}" * 3])) for n in range(12)]
    async with asyncio.timeout(STEP_S):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, errors.ResourceExhausted)]
    assert refused and len(refused) < len(outcomes)
    assert {o.reason for o in refused} == {"APP_EMBED_LIMIT"}
    assert [o for o in outcomes if isinstance(o, BaseException) and o not in refused] == []


async def test_a_bad_call_names_its_field(caller: embed_calls.Caller) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await caller.embed(["fine", ""])
    assert [v.field for v in caught.value.violations] == ["texts.items[1].text"]


async def test_what_nobody_waits_for_never_comes_to_the_device(
    running: stack.Stack, caller: embed_calls.Caller
) -> None:
    (worker,) = running.workers
    before = await _calls_computed(worker)
    async with asyncio.timeout(STEP_S):
        # Four micro-batches, 400 ms on the device; what comes meanwhile waits, and is gone before it is free.
        first = asyncio.create_task(caller.embed([f"holds the device {n}" for n in range(64)]))
        await _in_flight(running, 1)
        late = asyncio.create_task(caller.embed(["late"], timeout_s=0.05))
        cancelled = asyncio.ensure_future(caller.begin(["cancelled"]))
        await _in_flight(running, 3)
        cancelled.cancel()
        with pytest.raises(errors.DeadlineExceeded):
            await late
        await _in_flight(running, 1, at_most=True)
        assert not first.done(), "the others were dropped too late to tell anything"
        await first
        await caller.embed(["after"])
    assert await _calls_computed(worker) - before == 2


async def test_images_are_fetched_and_decoded_for_a_call_too(running: stack.Stack) -> None:
    good = pictures.make("jpeg")
    items = [
        item_pb2.ImageItem(data=good),
        item_pb2.ImageItem(data=good[:60]),
        item_pb2.ImageItem(url="http://10.0.0.1/"),
    ]
    async with (
        embed_calls.caller(running) as caller,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        asyncio.timeout(STEP_S),
    ):
        # A job loads the model.
        bulk = await client.embed_images([good], workload="hash-image")
        answer = await caller.images(items, "hash-image")
    np.testing.assert_array_equal(embed_calls.rows(answer), bulk.vectors)
    told = [(e.item_index, result_pb2.ItemErrorReason.Name(e.reason)[18:]) for e in answer.chunk.errors]
    assert told == [(1, "UNDECODABLE"), (2, "URL_NOT_ALLOWED")]


async def test_a_gateway_finds_the_replica_that_has_the_worker(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as running:
        first, second = await running.start("scheduler"), await running.start("scheduler")
        await asyncio.gather(
            running.start("gateway", scheduler_address=f"{first.address},{second.address}"),
            running.start("worker", scheduler_address=second.address),
        )
        async with embed_calls.caller(running) as caller, asyncio.timeout(STEP_S):
            await caller.warm()
            for number in range(6):
                await caller.embed([f"call {number}"])


async def _in_flight(running: stack.Stack, count: int, *, at_most: bool = False) -> None:
    """Until so many calls are at the scheduler, at least or at most."""
    while True:
        now = await processes.metric(running.scheduler.metrics, "podium_scheduler_embed_calls")
        if now <= count if at_most else now >= count:
            return


async def _calls_computed(worker: stack.Service) -> float:
    return await processes.metric(worker.metrics, "podium_worker_calls_total", workload="hash-384")
