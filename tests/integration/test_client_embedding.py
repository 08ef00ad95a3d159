"""The SDK's embedding calls over real gRPC, with a gateway that cuts, refuses and repeats."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest

import podium_client
from podium_client import AsyncClient, CallProgress, RetryPolicy
from tests.support import fake_gateway
from tests.support.fake_gateway import Cut, FakeGateway, Refusal, serve_fake_gateway

QUICK = RetryPolicy(first_pause_s=0.001, longest_pause_s=0.01, connect_for_s=5.0, retry_for_s=5.0)
TEXTS = [f"text number {n}" for n in range(43)]


@pytest.fixture
async def fake() -> AsyncIterator[FakeGateway]:
    async with serve_fake_gateway() as gateway:
        yield gateway


@pytest.fixture
async def client(fake: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(fake.address, fake_gateway.TOKEN, retry=QUICK) as made:
        yield made


def new_client(fake: FakeGateway) -> AsyncClient:
    return AsyncClient(fake.address, fake_gateway.TOKEN, retry=QUICK)


async def test_vectors_come_in_input_order_from_several_jobs(fake: FakeGateway, client: AsyncClient) -> None:
    result = await client.embed_texts(TEXTS, workload="fake", items_per_job=10)
    assert result.vectors.dtype == np.float32
    assert result.shape == (43, fake_gateway.DIMENSION)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    np.testing.assert_array_equal(np.asarray(result), result.vectors)
    assert result.ok.all()
    assert len(result.jobs) == 5
    assert result.provenance is not None
    assert result.provenance.model_name == "sha256"


async def test_results_are_released_after_the_call_and_not_before(fake: FakeGateway, client: AsyncClient) -> None:
    await client.embed_texts(TEXTS, workload="fake", items_per_job=10)
    assert all(job.message.results_released for job in fake.jobs.values())
    assert fake.cursors[:5] == [""] * 5


async def test_an_iterator_is_read_no_further_than_the_window(fake: FakeGateway, client: AsyncClient) -> None:
    fake.hold = True
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for n in itertools.count():
            read = n + 1
            yield f"text {n}"

    call = asyncio.create_task(client.embed_texts(endless(), workload="fake", items_per_job=10, max_jobs_in_flight=3))
    async with asyncio.timeout(5):
        while len(fake.jobs) < 3:
            fake.accepted.clear()
            await fake.accepted.wait()
    assert read == 31
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(fake.jobs) == 3


async def test_at_most_the_window_of_jobs_is_in_flight(fake: FakeGateway, client: AsyncClient) -> None:
    result = await client.embed_texts(
        iter(TEXTS), workload="fake", items_per_job=4, max_jobs_in_flight=2, release=False
    )
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert fake.calls["StreamResults"] == 11
    assert fake.most_open_streams <= 2


async def test_a_cut_stream_goes_on_without_releasing_and_without_duplicates(
    fake: FakeGateway, client: AsyncClient
) -> None:
    fake.cuts.extend([Cut(3), Cut(6, copies=2), Cut(9)])
    result = await client.embed_texts(TEXTS, workload="fake", release=False)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert fake.cursors == ["", "", "", ""]
    assert not any(job.message.progress.items_released for job in fake.jobs.values())


async def test_connections_that_bring_nothing_release_nothing(fake: FakeGateway, client: AsyncClient) -> None:
    fake.cuts.extend([Cut(3), Cut(0), Cut(0), Cut(9)])
    result = await client.embed_texts(TEXTS, workload="fake", release=False)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert fake.cursors == ["", "", "", "", ""]


async def test_streams_that_are_always_cut_at_the_same_place_still_end(fake: FakeGateway, client: AsyncClient) -> None:
    fake.cuts.extend([Cut(3)] * 12)
    result = await client.embed_texts(TEXTS, workload="fake", release=False)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert any(fake.resumes)


async def test_a_fetch_that_may_not_release_leaves_all_to_the_next(fake: FakeGateway, client: AsyncClient) -> None:
    job = await client.submit(TEXTS, workload="fake")
    fake.cuts.extend([Cut(3)] * 6)
    for _ in range(2):
        result = await client.fetch(job.job_id)
        np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert not any(fake.cursors)


async def test_a_fetch_that_may_not_release_and_is_asked_to_says_so(fake: FakeGateway, client: AsyncClient) -> None:
    job = await client.submit(TEXTS, workload="fake")
    asked = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "acknowledge", "RESULTS_UNACKNOWLEDGED", 0.001)
    fake.cuts.extend([Cut(9, refusal=asked)] * 3)
    with pytest.raises(podium_client.ResultsUnacknowledged, match="acknowledge"):
        await client.fetch(job.job_id)
    with pytest.raises(podium_client.ResultsUnacknowledged):
        await client.embed_texts(TEXTS, workload="fake", release=False)
    assert not any(fake.cursors)
    result = await client.fetch(job.job_id, release=True)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))


async def test_a_run_that_was_cancelled_is_taken_up_without_computing_again(fake: FakeGateway) -> None:
    async with new_client(fake) as first:
        seen = asyncio.Event()

        def progress(now: CallProgress) -> None:
            if now.items_done:
                seen.set()

        call = asyncio.create_task(
            first.embed_texts(TEXTS, workload="fake", items_per_job=10, max_jobs_in_flight=1, progress=progress)
        )
        async with asyncio.timeout(5):
            await seen.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    async with new_client(fake) as second:
        result = await second.embed_texts(TEXTS, workload="fake", items_per_job=10)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert fake.batches_computed == 9  # 4 jobs of 2 batches, one of 1: each once


async def test_the_same_call_after_success_computes_again_under_a_new_generation(
    fake: FakeGateway, client: AsyncClient
) -> None:
    for runs in range(1, 5):
        fake.calls.clear()
        result = await client.embed_texts(TEXTS, workload="fake")
        np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
        assert len(fake.jobs) == runs
        assert fake.calls["SubmitBatch"] <= 2  # whatever the number of earlier runs


async def test_results_released_by_another_run_while_reading_are_computed_again(
    fake: FakeGateway, client: AsyncClient
) -> None:
    job = (await client.submit_texts(TEXTS, workload="fake"))[0]
    fake.release_during_stream.add(job.job_id)
    counts: list[int] = []
    result = await client.embed_texts(TEXTS, workload="fake", progress=lambda now: counts.append(now.items_done))
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert len(fake.jobs) == 2
    assert counts[-1] == len(TEXTS)


async def test_a_cancelled_job_of_an_earlier_run_is_submitted_again(fake: FakeGateway, client: AsyncClient) -> None:
    fake.hold = True
    job = (await client.submit_texts(TEXTS, workload="fake"))[0]
    await client.cancel(job.job_id)
    fake.hold = False
    result = await client.embed_texts(TEXTS, workload="fake")
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert len(fake.jobs) == 2


async def test_a_job_cancelled_while_waiting_is_a_typed_error(fake: FakeGateway, client: AsyncClient) -> None:
    fake.hold = True
    call = asyncio.create_task(client.embed_texts(TEXTS, workload="fake"))
    async with asyncio.timeout(5):
        await fake.accepted.wait()
    await client.cancel(next(iter(fake.jobs)))
    with pytest.raises(podium_client.JobCancelled):
        await call


async def test_failed_items_have_zero_rows_and_are_named(fake: FakeGateway, client: AsyncClient) -> None:
    texts = [*TEXTS]
    texts[13], texts[14], texts[40] = "FAIL a", "LONG b", "DIE c"
    keys = [f"k{n}" for n in range(len(texts))]
    result = await client.embed_texts(texts, keys=keys, workload="fake", items_per_job=10, on_error="return")
    failed = [13, 40, 41, 42]
    assert [e.index for e in result.errors] == failed
    assert [e.key for e in result.errors] == [f"k{n}" for n in failed]
    assert [e.reason for e in result.errors] == ["EMPTY_INPUT"] + ["WORKER_LOST"] * 3
    assert np.flatnonzero(~result.ok).tolist() == failed
    assert not result.vectors[failed].any()
    np.testing.assert_array_equal(result.vectors[result.ok], fake_gateway.vectors(texts)[result.ok])
    assert [(t.index, t.token_count) for t in result.truncations] == [(14, 300)]


async def test_raising_for_failed_items_carries_the_rest_and_keeps_good_jobs(
    fake: FakeGateway, client: AsyncClient
) -> None:
    texts = [*TEXTS]
    texts[13] = "FAIL a"
    with pytest.raises(podium_client.ItemsFailed, match="1 of 43 items failed; the first: item 13") as caught:
        await client.embed_texts(texts, workload="fake", items_per_job=10)
    assert caught.value.result.ok.sum() == 42
    released = [job.message.results_released for job in fake.jobs.values()]
    assert sorted(released) == [False, False, False, False, True]


async def test_when_every_item_fails_the_dimension_comes_from_the_registry(
    fake: FakeGateway, client: AsyncClient
) -> None:
    result = await client.embed_texts(["FAIL 1", "FAIL 2"], workload="fake", on_error="return")
    assert result.shape == (2, fake_gateway.DIMENSION)
    assert not result.ok.any()


async def test_no_texts_give_an_empty_matrix(fake: FakeGateway, client: AsyncClient) -> None:
    assert (await client.embed_texts([], workload="fake")).shape == (0, fake_gateway.DIMENSION)


async def test_refusals_with_retry_info_are_waited_out(fake: FakeGateway, client: AsyncClient) -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "QUOTA_EXCEEDED")
    fake.refusals["SubmitBatch"].extend([Refusal(), full, Refusal()])
    fake.refusals["StreamResults"].append(Refusal())
    result = await client.embed_texts(TEXTS, workload="fake")
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))


async def test_patience_ends(fake: FakeGateway) -> None:
    fake.refusals["SubmitBatch"].extend([Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUOTA_EXCEEDED")] * 50)
    short = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.01, retry_for_s=0.05)
    async with AsyncClient(fake.address, fake_gateway.TOKEN, retry=short) as client:
        with pytest.raises(podium_client.Overloaded) as caught:
            await client.embed_texts(TEXTS, workload="fake")
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.retry_after_s == pytest.approx(0.001)


async def test_a_bad_item_is_named_by_its_place_in_the_whole_input(fake: FakeGateway, client: AsyncClient) -> None:
    texts = [*TEXTS]
    texts[27] = "x" * 70
    with pytest.raises(podium_client.InvalidInput) as caught:
        await client.embed_texts(texts, workload="fake", items_per_job=10)
    assert caught.value.message == "texts.items[27].text: 70 bytes, the workload's limit is 64"
    assert caught.value.violations[0].index == 27


@pytest.mark.parametrize("fault", ["crc", "gap", "revision"])
async def test_a_stream_that_breaks_the_contract_is_refused(fake: FakeGateway, client: AsyncClient, fault: str) -> None:
    fake.corrupt = fault
    with pytest.raises(podium_client.ProtocolError):
        await client.embed_texts(TEXTS, workload="fake")


async def test_an_exception_of_the_input_comes_out(client: AsyncClient) -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await client.embed_texts(broken(), workload="fake")


async def test_a_reader_that_is_asked_to_acknowledge_goes_on_at_its_cursor(
    fake: FakeGateway, client: AsyncClient
) -> None:
    asked = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "acknowledge", "RESULTS_UNACKNOWLEDGED", 0.001)
    fake.cuts.append(Cut(9, refusal=asked))
    result = await client.embed_texts(TEXTS, workload="fake", items_per_job=len(TEXTS))
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert fake.cursors[0] == ""
    assert int(fake.cursors[1]) > 0, "what was received is released"
    assert result.ok.all()


async def test_a_full_service_gets_room_from_the_jobs_that_are_here_already(
    fake: FakeGateway, client: AsyncClient
) -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "BUFFER_FULL", 0.001)
    refused: list[int] = []
    released: list[int] = []

    def progress(call: CallProgress) -> None:
        if call.items_done == 10 and not refused:
            refused.append(call.items_done)
            fake.refusals["SubmitBatch"].append(full)
        if call.items_done > 10 and not released:
            released.append(sum(job.message.results_released for job in fake.jobs.values()))

    result = await client.embed_texts(TEXTS, workload="fake", items_per_job=10, max_jobs_in_flight=1, progress=progress)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
    assert released == [1], "before the call was done"


async def test_without_release_a_full_service_keeps_everything(fake: FakeGateway, client: AsyncClient) -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "BUFFER_FULL", 0.001)

    def progress(call: CallProgress) -> None:
        if call.items_done == 10:
            fake.refusals["SubmitBatch"].append(full)

    await client.embed_texts(
        TEXTS, workload="fake", items_per_job=10, max_jobs_in_flight=1, release=False, progress=progress
    )
    assert not any(job.message.results_released for job in fake.jobs.values())
