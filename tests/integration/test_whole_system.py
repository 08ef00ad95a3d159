"""The main job on the real stack: a killed reader, a killed worker, your own workload, health and metrics."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from podium.common.v1 import item_pb2, job_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_client import AsyncClient
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack, stream_reader

STEP_S = 60.0
METADATA = (("authorization", f"Bearer {stack.APP_TOKEN}"),)


@asynccontextmanager
async def stub_of(running: stack.Stack) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


async def submit(stub: gateway_pb2_grpc.GatewayServiceStub, workload: str, texts: list[str]) -> job_pb2.Job:
    items = item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts])
    request = gateway_pb2.SubmitBatchRequest(request_id=str(uuid.uuid4()), workload=workload, texts=items)
    return (await stub.SubmitBatch(request, metadata=METADATA)).job


async def metric(address: str, pattern: str) -> float:
    """Sum of the samples of a Prometheus endpoint that match."""

    def read() -> float:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=STEP_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    return await asyncio.to_thread(read)


async def start_reader(running: stack.Stack, job_id: str, file: Path) -> asyncio.subprocess.Process:
    arguments = (running.gateway.address, stack.APP_TOKEN, job_id, str(file))
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.stream_reader", *arguments)


async def grown(file: Path, size: int, reader: asyncio.subprocess.Process) -> None:
    """Waits until a reader's file has this size, or the reader has ended."""
    while reader.returncode is None:
        if file.exists() and file.stat().st_size >= size:
            return
        await asyncio.sleep(0.005)


async def test_a_reader_killed_in_the_middle_goes_on_at_its_cursor(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(20_000)]
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    async with stack.running(tmp_path) as running, stub_of(running) as stub, asyncio.timeout(3 * STEP_S):
        job = await submit(stub, "hash-1024", texts)
        untouched = await start_reader(running, job.job_id, whole)
        assert await untouched.wait() == 0
        lives = 0
        while not any(m.HasField("end") for m in stream_reader.stored(torn)):
            reader = await start_reader(running, job.job_id, torn)
            before = torn.stat().st_size if torn.exists() else 0
            if lives < 3:
                # Killed once it has stored a few more messages, wherever in the middle of one that is.
                await grown(torn, before + 3_000_000, reader)
                if reader.returncode is None:
                    reader.kill()
            await reader.wait()
            lives += 1
        assert lives == 4
        computed = await metric(running.workers[0].metrics, r"podium_worker_batches_total\{.*outcome=\"done\"")
        assert computed == job.progress.batches_total
    # The last message holds the job as it is then, so it differs; every other byte is the same.
    *pieces, end = stream_reader.stored(torn)
    assert pieces == list(stream_reader.stored(whole))[:-1]
    assert end.end.job.progress.items_succeeded == len(texts)
    vectors = b"".join(m.chunk.vectors for m in pieces)
    assert vectors == hash_vectors([t.encode() for t in texts], 1024).tobytes()


async def test_a_killed_workers_batches_go_to_another(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(30_000)]
    async with (
        stack.running(tmp_path, workers=2) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        asyncio.timeout(3 * STEP_S),
    ):
        killed = asyncio.Event()

        def progress(*_: object) -> None:
            killed.set()

        embedding = asyncio.create_task(client.embed_texts(texts, workload="hash-1024", progress=progress))
        await killed.wait()
        await running.workers[0].stop(signal.SIGKILL)
        result = await embedding
    np.testing.assert_array_equal(result.vectors, hash_vectors([t.encode() for t in texts], 1024))


async def test_your_own_workload_with_its_prefixes(tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(
        """
workloads:
  two-sided:
    description: Prefixes as in the e5 family, over the hash backend, so that they can be seen in the vectors.
    modality: text
    dimension: 16
    limits: {max_text_bytes: 1KiB}
    batch: {max_items: 2, max_bytes: 1MiB}
    model: {backend: hash, name: podium/hash, revision: "1", pooling: none, normalized: false}
    prefixes: {query: "query: ", passage: "passage: ", default: passage}
"""
    )
    texts = ["one", "two", "three"]
    async with (
        stack.running(tmp_path, registry=str(registry)) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
        asyncio.timeout(STEP_S),
    ):
        found = {
            side: (await client.embed_texts(texts, workload="two-sided", input_type=side)).vectors
            for side in (None, "query", "passage")
        }
    for side, prefix in ((None, "passage: "), ("query", "query: "), ("passage", "passage: ")):
        np.testing.assert_array_equal(found[side], hash_vectors([(prefix + t).encode() for t in texts], 16))


async def test_services_tell_their_health_and_metrics(tmp_path: Path) -> None:
    async with stack.running(tmp_path) as running, asyncio.timeout(STEP_S):
        for service in (running.gateway, running.scheduler):
            async with grpc.aio.insecure_channel(service.address) as channel:
                watch = channel.unary_stream(
                    "/grpc.health.v1.Health/Watch",
                    request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                    response_deserializer=health_pb2.HealthCheckResponse.FromString,
                )
                async for answer in watch(health_pb2.HealthCheckRequest()):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break
        for service in running.services:
            assert await metric(service.metrics, r"process_start_time_seconds ") > 0
        assert await metric(running.scheduler.metrics, r"podium_queue_credits\{") >= 0
