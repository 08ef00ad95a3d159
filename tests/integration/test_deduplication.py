"""Identical items are computed once: the whole system, counted at the worker."""

from __future__ import annotations

import asyncio
import random
import uuid
from pathlib import Path

import asyncpg
import pytest

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_scheduler.app import admission
from tests.support import pictures, stack
from tests.support.deduplication_rig import BEARER, check, computed, results, stub_of, submit

pytestmark = pytest.mark.timeout(300)

STEP_S = 200.0
ITEMS, DISTINCT = 10_000, 1_000


def repeated(seed: int) -> list[str]:
    """ITEMS texts, DISTINCT of them different, mixed."""
    texts = [f"text {n % DISTINCT}" for n in range(ITEMS)]
    random.Random(seed).shuffle(texts)
    return texts


async def test_two_jobs_at_once_compute_each_distinct_item_once(tmp_path: Path) -> None:
    first, second = repeated(1), repeated(2)
    async with stack.running(tmp_path, workers=2) as running, stub_of(running) as stub, asyncio.timeout(STEP_S):
        plain_id = await submit(stub, first, deduplicate=False)
        plain, plain_end = await results(stub, plain_id)
        before = await computed(running)
        assert before == ITEMS
        jobs = await asyncio.gather(submit(stub, first), submit(stub, second))
        found = await asyncio.gather(*(results(stub, job_id) for job_id in jobs))
        for (chunks, _), texts in zip(found, (first, second), strict=True):
            check(chunks, texts)
        assert b"".join(c.vectors for c in plain) == b"".join(c.vectors for c in found[0][0])
        assert await computed(running) - before == DISTINCT
        ends = [end for _, end in found]
        assert all(end.progress.items_succeeded == ITEMS and end.deduplicated for end in ends)
        assert sum(end.progress.items_deduplicated for end in ends) == 2 * ITEMS - DISTINCT
        assert (plain_end.deduplicated, plain_end.progress.items_deduplicated) == (False, 0)


async def add_app(running: stack.Stack, name: str, token: str) -> None:
    """Another tenant."""
    connection = await asyncpg.connect(running.environment["PODIUM_POSTGRES_URL"].replace("+asyncpg", ""))
    await connection.execute("INSERT INTO apps (app_id) VALUES ($1)", name)
    await connection.execute(
        "INSERT INTO app_tokens (token_id, app_id, token_sha256) VALUES ($1, $2, $3)",
        uuid.uuid4(), name, admission.token_hash(token),
    )  # fmt: skip
    await connection.close()


async def test_what_is_known_is_known_to_the_same_app_and_in_the_same_encoding_alone(tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    written = """
workloads:
  hash-384:
    description: As the one that is shipped, with more encodings.
    modality: text
    dimension: 384
    limits: {max_text_bytes: 64KiB}
    batch: {max_items: 100, max_bytes: 1MiB}
    model: {backend: hash, name: podium/hash, revision: "REVISION", pooling: none, normalized: false}
    encodings: [float16]
    dimensions: [64]
"""
    registry.write_text(written.replace("REVISION", "1"))
    texts = [f"text {n}" for n in range(300)]
    half, short = (
        item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_FLOAT16),
        item_pb2.EmbeddingOptions(dimensions=64),
    )
    async with (
        stack.running(tmp_path, registry=str(registry)) as running,
        stub_of(running) as stub,
        asyncio.timeout(STEP_S),
    ):
        await add_app(running, "other", "token of another app")

        async def costs(options: item_pb2.EmbeddingOptions | None = None, token: str = stack.APP_TOKEN) -> float:
            """Items that one more job of the same texts has computed."""
            before = await computed(running)
            job_id = await submit(stub, texts, options=options, token=token)
            chunks, _ = await results(stub, job_id, token)
            if options is None:
                check(chunks, texts)
            else:
                plain = await submit(stub, texts, options=options, deduplicate=False)
                wanted, _ = await results(stub, plain)
                assert b"".join(c.vectors for c in chunks) == b"".join(c.vectors for c in wanted)
                before += len(texts)
            return await computed(running) - before

        assert [await costs(), await costs()] == [300, 0]
        assert [await costs(token="token of another app"), await costs()] == [300, 0]
        assert [await costs(half), await costs(half), await costs(short), await costs(short)] == [300, 0, 300, 0]
        # Without any worker.
        await running.workers[0].stop()
        check((await results(stub, await submit(stub, texts)))[0], texts)
        for service in (running.gateway, running.scheduler):
            await service.stop()
        running.services.clear()
        registry.write_text(written.replace("REVISION", "2"))
        await running.start("scheduler")
        await asyncio.gather(running.start("gateway"), running.start("worker"))
        async with stub_of(running) as stub:
            chunks, _ = await results(stub, await submit(stub, texts))
            assert {c.provenance.revision for c in chunks} == {"2"}
            assert await computed(running) == 300


async def test_an_owner_that_is_cancelled_gives_its_items_up(tmp_path: Path) -> None:
    texts = [f"text {n % 400}" for n in range(1_000)]
    async with stack.running(tmp_path, workers=0) as running, stub_of(running) as stub, asyncio.timeout(STEP_S):
        first, second, third = [await submit(stub, texts) for _ in range(3)]
        await stub.CancelJob(gateway_pb2.CancelJobRequest(job_id=first), metadata=BEARER)
        fourth = await submit(stub, texts)
        await running.start("worker")
        found = await asyncio.gather(*(results(stub, job_id) for job_id in (second, third, fourth)))
        for chunks, _ in found:
            check(chunks, texts)
        # Whoever came first has taken the claims over, and the others have waited for it.
        assert await computed(running) == 400


async def test_errors_are_nobodys_vectors(tmp_path: Path) -> None:
    pixel = pictures.make("png", 8, 8)
    files = [pixel, b"no image", pixel, b"no image", pictures.make("png", 8, 8, seed=7)]
    async with stack.running(tmp_path) as running, stub_of(running) as stub, asyncio.timeout(STEP_S):
        images = item_pb2.ImageItems(items=[item_pb2.ImageItem(key=f"key-{n}", data=d) for n, d in enumerate(files)])
        bytes_of = []
        for deduplicate in (False, True, True):
            request = gateway_pb2.SubmitBatchRequest(
                request_id=str(uuid.uuid4()), workload="hash-image", images=images, deduplicate=deduplicate
            )
            job = (await stub.SubmitBatch(request, metadata=BEARER)).job
            chunks, end = await results(stub, job.job_id)
            undecodable = result_pb2.ITEM_ERROR_REASON_UNDECODABLE
            errors = [(e.item_index, e.reason) for c in chunks for e in c.errors]
            assert errors == [(1, undecodable), (3, undecodable)]
            assert [key for c in chunks for key in c.keys] == [f"key-{n}" for n in range(5)]
            assert (end.progress.items_succeeded, end.progress.items_failed) == (3, 2)
            bytes_of.append(b"".join(c.vectors for c in chunks))
        assert len(set(bytes_of)) == 1
        # Three vectors, then two of them for two files, then none: what has no vector is tried again.
        assert await computed(running, r"podium_worker_items_computed_total\{.*hash-image") == 3 + 2 + 0
