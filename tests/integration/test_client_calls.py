"""The SDK's single calls, its synchronous client and its sinks, over real gRPC."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pyarrow.parquet
import pytest

import podium_client
from podium_client import AsyncClient, Client, JobState, RetryPolicy
from tests.support import fake_gateway
from tests.support.fake_gateway import Cut, FakeGateway, Refusal, serve_fake_gateway

T = TypeVar("T")
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


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def in_thread(fake: FakeGateway, work: Callable[[Client], T]) -> T:
    """Run with the synchronous client, as a program without a loop would."""

    def run() -> T:
        with Client(fake.address, fake_gateway.TOKEN, retry=QUICK) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_submit_is_idempotent_by_request_id(fake: FakeGateway, client: AsyncClient) -> None:
    request = uuid.uuid4()
    first = await client.submit(TEXTS, workload="fake", request_id=request, labels={"a": "b"}, priority=2)
    again = await client.submit(TEXTS, workload="fake", request_id=request, labels={"a": "b"}, priority=2)
    assert first.job_id == again.job_id
    assert (first.priority, first.labels, first.state) == (2, {"a": "b"}, JobState.COMPLETED)
    assert first.budget_usd is None
    assert (await client.submit(TEXTS, workload="fake", budget_usd=2.5)).budget_usd == 2.5
    with pytest.raises(podium_client.RequestIdConflict):
        await client.submit(TEXTS[1:], workload="fake", request_id=request)


async def test_chunks_can_be_taken_up_at_a_cursor(fake: FakeGateway, client: AsyncClient) -> None:
    job = await client.submit(TEXTS, workload="fake")
    whole = [chunk async for chunk in client.results(job.job_id)]
    assert sum(chunk.item_count for chunk in whole) == len(TEXTS)
    rows = np.concatenate([chunk.vectors for chunk in whole])
    np.testing.assert_array_equal(rows, fake_gateway.vectors(TEXTS))
    rest = [chunk async for chunk in client.results(job.job_id, after=whole[3].cursor)]
    assert [chunk.first_item for chunk in rest] == [chunk.first_item for chunk in whole[4:]]
    with pytest.raises(podium_client.ResultsReleased):
        async for _ in client.results(job.job_id):
            pass


async def test_jobs_are_listed_page_by_page(fake: FakeGateway, client: AsyncClient) -> None:
    made = [await client.submit([text], workload="fake", labels={"n": str(len(text) % 2)}) for text in TEXTS[8:13]]
    listed = [job.job_id async for job in client.jobs(page_size=2)]
    assert listed == [job.job_id for job in reversed(made)]
    assert fake.calls["ListJobs"] == 3
    assert not [job async for job in client.jobs(states=["cancelled"])]
    assert [job async for job in client.jobs(labels={"n": "1"}, workload="fake", states=[JobState.COMPLETED])]


async def test_watch_follows_to_the_final_state(fake: FakeGateway, client: AsyncClient) -> None:
    fake.hold = True
    job = await client.submit(TEXTS, workload="fake")
    states = []
    async for now in client.watch(job.job_id):
        states.append(now.state)
        if now.state is JobState.RUNNING:
            await client.cancel(job.job_id)
    assert states == [JobState.RUNNING, JobState.CANCELLED]
    result = await client.fetch(job.job_id, on_error="return")
    assert {error.reason for error in result.errors} == {"CANCELLED"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, podium_client.PermissionDenied),
        (grpc.StatusCode.FAILED_PRECONDITION, podium_client.FailedPrecondition),
        (grpc.StatusCode.UNIMPLEMENTED, podium_client.NotImplementedByService),
        (grpc.StatusCode.DEADLINE_EXCEEDED, podium_client.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, podium_client.ServiceError),
    ],
)
async def test_errors_have_types_and_keep_their_reason(
    fake: FakeGateway, client: AsyncClient, code: grpc.StatusCode, kind: type[podium_client.PodiumError]
) -> None:
    fake.refusals["GetJob"].append(Refusal(code, "no", "BECAUSE", None))
    with pytest.raises(kind) as caught:
        await client.job(str(uuid.uuid4()))
    assert (caught.value.code, caught.value.reason) == (code, "BECAUSE")


async def test_unknown_job_and_unknown_token(fake: FakeGateway, client: AsyncClient) -> None:
    with pytest.raises(podium_client.JobNotFound):
        await client.job(str(uuid.uuid4()))
    async with AsyncClient(fake.address, "wrong") as stranger:
        with pytest.raises(podium_client.Unauthenticated, match="unknown token"):
            await stranger.workloads()


async def test_a_wrong_address_is_told_at_once() -> None:
    policy = RetryPolicy(connect_for_s=0.2, retry_for_s=60.0)
    async with AsyncClient("127.0.0.1:1", "token", retry=policy) as client:
        with pytest.raises(podium_client.Unavailable, match=r"cannot reach 127\.0\.0\.1:1"):
            async with asyncio.timeout(5):
                await client.workloads()


async def test_the_synchronous_client_does_the_same(fake: FakeGateway) -> None:
    def work(client: Client) -> None:
        result = client.embed_texts(iter(TEXTS), workload="fake", items_per_job=10)
        np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(TEXTS))
        job = client.submit(TEXTS, workload="fake")
        assert [now.state for now in client.watch(job.job_id)] == [JobState.COMPLETED]
        assert sum(chunk.item_count for chunk in client.results(job.job_id)) == len(TEXTS)
        first = next(iter(client.results(job.job_id)))
        assert first.first_item == 0
        assert client.job(job.job_id) == next(iter(client.jobs()))
        assert client.workloads()[0].dimension == fake_gateway.DIMENSION
        with pytest.raises(podium_client.FailedPrecondition):
            client.cancel(job.job_id)

    await in_thread(fake, work)


async def test_npy_has_every_row_and_names_failures_beside_it(fake: FakeGateway, tmp_path: Path) -> None:
    fake.cuts.extend([Cut(2), Cut(1)])
    texts = [*TEXTS]
    texts[20] = "FAIL this"
    out = tmp_path / "vectors.npy"
    summary = await in_thread(fake, lambda c: c.embed_texts_to(out, iter(texts), workload="fake", items_per_job=10))
    loaded = np.load(out, mmap_mode="r")
    expected = fake_gateway.vectors(texts)
    expected[20] = 0
    np.testing.assert_array_equal(loaded, expected)
    assert (summary.items, summary.succeeded, summary.failed) == (43, 42, 1)
    error = json.loads((tmp_path / "vectors.npy.errors.jsonl").read_text())
    assert (error["index"], error["reason"]) == (20, "EMPTY_INPUT")
    assert names_in(tmp_path) == ["vectors.npy", "vectors.npy.errors.jsonl"]
    assert all(job.message.results_released for job in fake.jobs.values())


async def test_parquet_has_index_key_vector_error_and_provenance(fake: FakeGateway, tmp_path: Path) -> None:
    texts = [*TEXTS]
    texts[20] = "FAIL this"
    keys = [f"k{n}" for n in range(43)]
    out = tmp_path / "vectors.parquet"
    await in_thread(fake, lambda c: c.embed_texts_to(out, texts, keys=keys, workload="fake", items_per_job=10))
    table = pyarrow.parquet.read_table(out)
    assert table.column("index").to_pylist() == list(range(43))
    assert table.column("key").to_pylist() == keys
    assert str(table.schema.field("vector").type) == f"fixed_size_list<element: float>[{fake_gateway.DIMENSION}]"
    vectors = table.column("vector").to_pylist()
    assert vectors[20] is None
    np.testing.assert_array_equal(
        np.array(vectors[:20] + vectors[21:], dtype=np.float32),
        np.delete(fake_gateway.vectors(texts), 20, axis=0),
    )
    assert table.column("error").to_pylist()[20] == "EMPTY_INPUT: nothing to read"
    assert table.column("error").null_count == 42
    assert json.loads(table.schema.metadata[b"podium.provenance"])["model_name"] == "sha256"
    assert pyarrow.parquet.ParquetFile(out).num_row_groups == 5


async def test_a_failed_call_leaves_no_file_and_releases_nothing(fake: FakeGateway, tmp_path: Path) -> None:
    texts = [*TEXTS]
    texts[42] = "x" * 70
    for name in ("vectors.npy", "vectors.parquet", "vectors.jsonl"):

        def work(client: Client, out: Path = tmp_path / name) -> podium_client.Summary:
            return client.embed_texts_to(out, texts, workload="fake", items_per_job=10)

        with pytest.raises(podium_client.InvalidInput):
            await in_thread(fake, work)
    assert not names_in(tmp_path)
    assert not any(job.message.progress.items_released for job in fake.jobs.values())


async def test_a_job_known_by_its_id_goes_to_a_file_with_its_keys(fake: FakeGateway, tmp_path: Path) -> None:
    def work(client: Client) -> podium_client.Summary:
        job = client.submit(TEXTS, keys=[f"k{n}" for n in range(43)], workload="fake")
        return client.fetch_to(tmp_path / "out.jsonl", job.job_id, release=True)

    summary = await in_thread(fake, work)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(43)]
    np.testing.assert_array_equal(
        np.array([row["vector"] for row in rows], dtype=np.float32), fake_gateway.vectors(TEXTS)
    )
    assert summary.dimension == fake_gateway.DIMENSION
    assert all(job.message.results_released for job in fake.jobs.values())
