"""Images and encodings through the SDK, over real gRPC: every kind of item, every dtype, every sink, resumed runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet
import pytest

import podium_client
from examples import image_search
from podium_client import AsyncClient, CallProgress, Client, Dtype, ImageLike, RetryPolicy
from podium_client.encodings import DTYPES
from tests.support import fake_gateway
from tests.support.fake_gateway import Cut, FakeGateway, serve_fake_gateway

QUICK = RetryPolicy(first_pause_s=0.001, longest_pause_s=0.01, connect_for_s=5.0, retry_for_s=5.0)
COUNT = 23


@pytest.fixture
async def fake() -> AsyncIterator[FakeGateway]:
    async with serve_fake_gateway() as gateway:
        yield gateway


@pytest.fixture
async def client(fake: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(fake.address, fake_gateway.TOKEN, retry=QUICK) as made:
        yield made


def mixed(folder: Path, count: int = COUNT) -> tuple[list[ImageLike], list[fake_gateway.Content]]:
    """URLs, bytes and files in turn; and what reaches the service of them."""
    images: list[ImageLike] = []
    contents: list[fake_gateway.Content] = []
    for n in range(count):
        content = (f"https://example.org/{n}.jpg", b"inline %d" % n, b"file %d" % n)[n % 3]
        contents.append(content)
        if n % 3 == 2:
            path = folder / f"{n}.png"
            path.write_bytes(b"file %d" % n)
            images.append(path)
        else:
            images.append(content)
    return images, contents


async def test_urls_bytes_and_files_come_back_in_order(fake: FakeGateway, client: AsyncClient, tmp_path: Path) -> None:
    images, contents = mixed(tmp_path)
    fake.cuts.extend([Cut(2), Cut(1, copies=2)])
    for given in (images, iter(images)):
        result = await client.embed_images(given, workload="fake-image", items_per_job=10)
        np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(contents))
        assert result.ok.all()
    assert all(job.message.results_released for job in fake.jobs.values())


async def test_the_synchronous_client_takes_images_too(fake: FakeGateway, tmp_path: Path) -> None:
    images, contents = mixed(tmp_path)

    def work() -> None:
        with Client(fake.address, fake_gateway.TOKEN, retry=QUICK) as client:
            jobs = client.submit_images(images, workload="fake-image", items_per_job=10)
            result = client.embed_images(images, workload="fake-image", items_per_job=10)
            assert result.jobs == tuple(job.job_id for job in jobs)
            np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(contents))
            summary = client.embed_images_to(tmp_path / "out.npy", images, workload="fake-clip", dtype="float16")
            assert (summary.items, summary.dtype) == (COUNT, "float16")
            job = client.submit(images=images[:3], workload="fake-image", keys=["a", "b", "c"], dtype="int8")
            assert (job.modality, job.dtype, job.dimensions) == ("image", "int8", None)
            fetched = client.fetch(job.job_id)
            assert (fetched.dtype, fetched.dimension) == ("int8", fake_gateway.DIMENSION)
            np.testing.assert_array_equal(
                fetched.vectors, fake_gateway.encode(fake_gateway.vectors(contents[:3]), "int8")
            )

    await asyncio.to_thread(work)


async def test_one_job_is_of_texts_or_of_images(client: AsyncClient) -> None:
    with pytest.raises(TypeError, match="either texts or images"):
        await client.submit(workload="fake-clip")
    with pytest.raises(TypeError, match="either texts or images"):
        await client.submit(["a"], images=[b"b"], workload="fake-clip")
    for single in ("https://example.org/a.jpg", b"data", Path("a.jpg")):
        with pytest.raises(TypeError, match="images: a list or iterable of images is needed"):
            await client.embed_images(single, workload="fake-image")  # type: ignore[arg-type]


async def test_failed_images_are_named_by_index_and_key(fake: FakeGateway, client: AsyncClient, tmp_path: Path) -> None:
    images, contents = mixed(tmp_path)
    images[12], contents[12] = "https://example.org/FAIL.jpg", "https://example.org/FAIL.jpg"
    images[13], contents[13] = b"FAIL", b"FAIL"
    keys = [f"picture {n}" for n in range(COUNT)]
    result = await client.embed_images(images, workload="fake-image", keys=keys, items_per_job=10, on_error="return")
    assert [(e.index, e.key, e.reason) for e in result.errors] == [
        (12, "picture 12", "UNDECODABLE"),
        (13, "picture 13", "UNDECODABLE"),
    ]
    np.testing.assert_array_equal(result.vectors[result.ok], fake_gateway.vectors(contents)[result.ok])
    assert result.ok.sum() == COUNT - 2


async def test_a_bad_image_is_named_by_its_place_in_the_whole_input(client: AsyncClient, tmp_path: Path) -> None:
    images, _ = mixed(tmp_path)
    images[15] = "https://example.org/" + "x" * 60
    with pytest.raises(podium_client.InvalidInput) as caught:
        await client.embed_images(images, workload="fake-image", items_per_job=10)
    assert caught.value.message == "images.items[15].url: 80 bytes, the workload's limit is 64"
    images[15] = tmp_path / "missing.png"
    with pytest.raises(podium_client.InvalidInput, match=r"images\.items\[15\]\.data: .*missing\.png: No such file"):
        await client.embed_images(images, workload="fake-image", items_per_job=10)


async def test_the_same_image_twice_is_two_items_and_the_same_key_twice_is_refused(
    client: AsyncClient, tmp_path: Path
) -> None:
    images = [b"one", b"two", b"one"]
    result = await client.embed_images(images, workload="fake-image")
    np.testing.assert_array_equal(result.vectors[0], result.vectors[2])
    with pytest.raises(podium_client.InvalidInput, match=r"images\.items\[2\]\.key: 'a' is also the key of item 0"):
        await client.embed_images(images, workload="fake-image", keys=["a", "b", "a"])


async def test_inline_images_are_cut_by_bytes_and_held_no_further_than_the_window(
    fake: FakeGateway, client: AsyncClient
) -> None:
    fake.hold = True
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"%1000d" % read

    call = asyncio.create_task(
        client.embed_images(endless(), workload="fake-image", bytes_per_job=4000, max_jobs_in_flight=2)
    )
    async with asyncio.timeout(5):
        while len(fake.jobs) < 2:
            fake.accepted.clear()
            await fake.accepted.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [len(job.contents) for job in fake.jobs.values()] == [4, 4]
    assert read == 9


async def test_a_job_too_large_for_one_message_is_told_and_not_tried_again(
    fake: FakeGateway, client: AsyncClient
) -> None:
    images = [bytes([n]) * (15 << 20) for n in range(1, 6)]
    with pytest.raises(podium_client.InvalidInput, match="larger than the service takes in one message") as caught:
        await client.submit(images=images, workload="fake-image")
    assert (caught.value.reason, fake.calls["SubmitBatch"]) == ("MESSAGE_TOO_LARGE", 0)


async def test_an_interrupted_run_over_images_is_taken_up(fake: FakeGateway, tmp_path: Path) -> None:
    images, contents = mixed(tmp_path, 43)
    async with AsyncClient(fake.address, fake_gateway.TOKEN, retry=QUICK) as first:
        seen = asyncio.Event()

        def progress(now: CallProgress) -> None:
            if now.items_done:
                seen.set()

        call = asyncio.create_task(
            first.embed_images(images, workload="fake-image", items_per_job=10, max_jobs_in_flight=1, progress=progress)
        )
        async with asyncio.timeout(5):
            await seen.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    async with AsyncClient(fake.address, fake_gateway.TOKEN, retry=QUICK) as second:
        result = await second.embed_images(images, workload="fake-image", items_per_job=10)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(contents))
    assert fake.batches_computed == 9  # 4 jobs of 2 batches, one of 1: each once


def expected(contents: list[fake_gateway.Content], dtype: Dtype, dimension: int, failed: int) -> npt.NDArray[Any]:
    rows = fake_gateway.encode(fake_gateway.vectors(contents, dimension), dtype)
    rows[failed] = 0
    return rows


@pytest.mark.parametrize("dimensions", [None, 4])
@pytest.mark.parametrize("dtype", DTYPES)
async def test_every_encoding_goes_into_every_sink(
    fake: FakeGateway, client: AsyncClient, tmp_path: Path, dtype: Dtype, dimensions: int | None
) -> None:
    images, contents = mixed(tmp_path)
    images[20] = contents[20] = b"FAIL this"
    dimension = dimensions or fake_gateway.DIMENSION
    rows = expected(contents, dtype, dimension, 20)

    result = await client.embed_images(
        images, workload="fake-image", dtype=dtype, dimensions=dimensions, items_per_job=10, on_error="return"
    )
    np.testing.assert_array_equal(result.vectors, rows)
    assert (result.vectors.dtype, result.dtype, result.dimension) == (rows.dtype, dtype, dimension)
    assert result.provenance is not None
    assert (result.provenance.dtype, result.provenance.dimension) == (dtype, dimension)

    summaries = {}
    for name in ("out.npy", "out.parquet", "out.jsonl"):
        summaries[name] = await client.embed_images_to(
            tmp_path / name, images, workload="fake-image", dtype=dtype, dimensions=dimensions, items_per_job=10
        )
    assert {(s.dimension, s.dtype, s.failed) for s in summaries.values()} == {(dimension, dtype, 1)}

    loaded = np.load(tmp_path / "out.npy")
    assert loaded.dtype == rows.dtype
    np.testing.assert_array_equal(loaded, rows)

    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    element = {"float32": "float", "float16": "halffloat", "int8": "int8", "binary": "uint8"}[dtype]
    assert str(table.schema.field("vector").type) == f"fixed_size_list<element: {element}>[{rows.shape[1]}]"
    stored = table.column("vector").to_pylist()
    assert stored.pop(20) is None
    np.testing.assert_array_equal(np.array(stored, dtype=rows.dtype), np.delete(rows, 20, axis=0))
    assert table.schema.metadata[b"podium.dtype"] == dtype.encode()
    assert int(table.schema.metadata[b"podium.dimension"]) == dimension
    assert json.loads(table.schema.metadata[b"podium.provenance"])["dtype"] == dtype

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines.pop(20)["error"]["reason"] == "UNDECODABLE"
    written = np.array([line["vector"] for line in lines]).astype(rows.dtype)
    np.testing.assert_array_equal(written, np.delete(rows, 20, axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
async def test_sinks_know_the_encoding_when_nothing_comes(client: AsyncClient, tmp_path: Path, dtype: Dtype) -> None:
    layout = podium_client.Layout(fake_gateway.DIMENSION, dtype)
    for number, texts in enumerate(([], ["FAIL 1", "FAIL 2"])):
        result = await client.embed_texts(texts, workload="fake", dtype=dtype, on_error="return", run=str(number))
        assert (result.vectors.dtype, result.shape) == (layout.numpy, (len(texts), layout.width))
        for name in ("out.npy", "out.parquet"):
            await client.embed_texts_to(tmp_path / name, texts, workload="fake", dtype=dtype, run=f"{number}-{name}")
        loaded = np.load(tmp_path / "out.npy")
        assert (loaded.dtype, loaded.shape) == (layout.numpy, (len(texts), layout.width))
        schema = pyarrow.parquet.read_schema(tmp_path / "out.parquet")
        assert schema.field("vector").type.list_size == layout.width


async def test_vectors_of_another_type_than_asked_for_are_refused(fake: FakeGateway, client: AsyncClient) -> None:
    fake.corrupt = "dtype"
    with pytest.raises(podium_client.ProtocolError, match="vectors of 12 float32, expected 12 int8"):
        await client.embed_texts(["a"], workload="fake", dtype="int8")


async def test_what_a_workload_does_not_allow_is_named(client: AsyncClient) -> None:
    with pytest.raises(podium_client.InvalidInput) as caught:
        await client.embed_texts(["a"], workload="fake", dimensions=5)
    assert caught.value.violations[0].field == "options.dimensions"
    with pytest.raises(podium_client.InvalidInput, match="does not take images"):
        await client.embed_images([b"a"], workload="fake")
    with pytest.raises(ValueError, match="dtype: one of"):
        await client.embed_texts(["a"], workload="fake", dtype="float64")  # type: ignore[arg-type]


async def test_consumers_get_the_encoding_of_each_job(fake: FakeGateway, client: AsyncClient) -> None:
    images: list[ImageLike] = [b"one", b"FAIL", b"three"]
    for dtype in DTYPES:
        await client.submit(images=images, workload="fake-image", dtype=dtype)
    jobs = [job async for job in client.jobs()]
    seen: dict[str, list[podium_client.ResultDelivery]] = {}
    async with asyncio.timeout(10), aclosing(client.consume(group="g")) as deliveries:
        async for delivery in deliveries:
            if isinstance(delivery, podium_client.ResultDelivery):
                seen.setdefault(delivery.job_id, []).append(delivery)
            elif len(seen) == len(jobs):
                break
    good = fake_gateway.vectors([b"one", b"three"])
    for job in jobs:
        assert {d.dtype for d in seen[job.job_id]} == {job.dtype}
        assert {d.dimension for d in seen[job.job_id]} == {fake_gateway.DIMENSION}
        rows = np.concatenate([d.vectors for d in seen[job.job_id]])
        np.testing.assert_array_equal(rows, fake_gateway.encode(good, job.dtype))
        wide = np.concatenate([d.to_float32() for d in seen[job.job_id]])
        assert ((wide * good).sum(axis=1) > 0.7).all()


async def test_the_registry_says_what_may_be_asked_for(client: AsyncClient) -> None:
    found = {one.name: one for one in await client.workloads()}
    assert found["fake-clip"].modalities == ("text", "image")
    assert found["fake"].dtypes == DTYPES
    assert found["fake"].truncated_dimensions == fake_gateway.TRUNCATED
    assert found["fake"].max_image_bytes == fake_gateway.MAX_IMAGE_BYTES


async def test_the_example_finds_the_picture_that_is_nearest(fake: FakeGateway, tmp_path: Path) -> None:
    contents = {f"{n}.jpg": b"picture %d" % n for n in range(9)} | {"bad.png": b"FAIL"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    query = fake_gateway.vector("a sentence")
    cosines = {name: float(fake_gateway.vector(data) @ query) for name, data in contents.items() if data != b"FAIL"}
    right = sorted(cosines, key=lambda name: -cosines[name])
    for dtype in DTYPES:

        def work(dtype: Dtype = dtype) -> list[tuple[float, Path]]:
            with Client(fake.address, fake_gateway.TOKEN, retry=QUICK) as client:
                return image_search.search(client, tmp_path, "a sentence", workload="fake-clip", dtype=dtype, best=20)

        found = await asyncio.to_thread(work)
        assert {path.name for _, path in found} == set(right)
        if dtype != "binary":
            assert [path.name for _, path in found] == right
            assert [cosine for cosine, _ in found] == pytest.approx(sorted(cosines.values(), reverse=True), abs=0.02)
