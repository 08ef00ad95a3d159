"""(b), (c), (e): everything but the model, on the `hash` backend, against one bare gRPC hop."""

from __future__ import annotations

import asyncio
import time
import uuid

import yaml

import podium_client
from podium.gateway.v1 import gateway_pb2
from tests.bench import bare_hop, footprint, report, rounds
from tests.support import stack

BATCH_ITEMS = 1_024
"""Of the workloads here. The shipped 256 suit the tests; a model of a millisecond a batch wants larger ones."""
_CHUNK_BYTES = 1 << 20
_REDIS = "redis-server"
"""As `footprint` calls it."""
_SMALL_JOB = 16
_JOB_ITEMS = 10_000
_AT_ONCE = 4
_PRECISION = "float32 vectors, no model"


def registry(shipped: str) -> str:
    """The shipped registry with larger batches of the null model."""
    registered = yaml.safe_load(shipped)
    for name in ("hash-384", "hash-1024"):
        registered["workloads"][name]["batch"]["max_items"] = BATCH_ITEMS
    return yaml.safe_dump(registered, sort_keys=False)


def _texts(count: int) -> list[str]:
    return [f"short text number {number} about nothing in particular" for number in range(count)]


async def measure(
    client: podium_client.AsyncClient, running: stack.Stack, hop: bare_hop.Hop, count: int, items: int
) -> list[report.Line]:
    """(b) The lines of throughput, with `items` embeddings of the smaller model, and the line of memory."""
    # First, while every process is as it was started.
    held = await memory(client, running, count, items=items // 2)
    lines = [
        await throughput(client, hop, count, dimension=dimension, items=some)
        for dimension, some in ((384, items), (1024, items // 2))
    ]
    return [*lines, held]


async def throughput(
    client: podium_client.AsyncClient, hop: bare_hop.Hop, count: int, *, dimension: int, items: int
) -> report.Line:
    """(b) Embeddings through the durable path against the same bytes over one hop, in MB/s."""
    texts = _texts(items)
    megabytes = items * dimension * 4 / 1e6
    # As the chunks of a batch are on average.
    rows = BATCH_ITEMS // -(-BATCH_ITEMS * dimension * 4 // _CHUNK_BYTES)

    async def podium() -> float:
        started = time.perf_counter()
        found = await client.embed_texts(texts, workload=f"hash-{dimension}", run=str(uuid.uuid4()))
        seconds = time.perf_counter() - started
        assert len(found) == items
        return megabytes / seconds

    async def bare() -> float:
        return megabytes / await hop.stream(-(-items // rows), rows * dimension * 4)

    figures = await rounds.alternate({"podium": podium, "bare": bare}, count)
    rates = rounds.spread([rate * 1e6 / (dimension * 4) for rate in figures["podium"]])
    return report.line(
        f"hash_{dimension}",
        figures["podium"],
        figures["bare"],
        what=f"null model, {dimension} elements, through the durable path, one worker",
        against="the same chunks over one bare grpc.aio stream",
        unit="MB/s",
        precision=_PRECISION,
        counts=f"{items:,} embeddings, {BATCH_ITEMS:,} a batch, {rows} a chunk",
        goals=(report.at_least(0.25),),
        extra={"embeddings/s": rates.median},
    )


async def memory(client: podium_client.AsyncClient, running: stack.Stack, count: int, *, items: int) -> report.Line:
    """(b) What the processes hold at most while embeddings go through them, and that more of them need no more.

    But Redis: a call acknowledges its results when it is complete, so that whoever dies in the middle finds them again.
    What it keeps until then is told apart.
    """
    once: list[dict[str, list[int]]] = []

    async def peak(texts: list[str]) -> dict[str, list[int]]:
        footprint.forget_peaks(running)
        assert len(await client.embed_texts(texts, workload="hash-1024", run=str(uuid.uuid4()))) == len(texts)
        return footprint.peaks(running)

    await peak(_texts(BATCH_ITEMS))
    rest = footprint.resident(running)
    for _ in range(count):
        once.append(await peak(_texts(items)))
    twice = await peak(_texts(2 * items))
    totals = [_total(found) for found in once]
    passing = rounds.spread([_total(found, but=_REDIS) for found in once]).median
    kept = rounds.spread([sum(found[_REDIS]) / 1e6 for found in once]).median
    each: dict[str, float] = {}
    for kind in sorted(once[-1]):
        most = max(max(found[kind]) for found in once if kind in found) / 1e6
        each[f"{kind} ({len(once[-1][kind])}) MB"] = most
    return report.line(
        "memory",
        totals,
        [_total(rest)] * count,
        what="peak resident memory of all processes, null model, 1,024 elements, durable path; by kind the largest",
        against="what they held before, idle, the model loaded",
        unit="MB",
        precision=_PRECISION,
        counts=f"{items:,} embeddings a round; shared pages count in each process",
        goals=(report.at_most(1.15, "twice as many, without Redis, share"),),
        extra={
            "twice as many, without Redis, share": _total(twice, but=_REDIS) / passing,
            "twice as many, Redis, MB more": sum(twice[_REDIS]) / 1e6 - kept,
            "twice as many, MB of vectors more": items * 1_024 * 4 / 1e6,
            **each,
        },
    )


def _total(found: dict[str, list[int]], *, but: str = "") -> float:
    return sum(sum(processes) for kind, processes in found.items() if kind != but) / 1e6


async def latency(client: podium_client.AsyncClient, hop: bare_hop.Hop, count: int, *, jobs: int) -> list[report.Line]:
    """(c) From submit to the first result on a warm worker, against one bare unary call of the same request."""
    texts = _texts(_SMALL_JOB)
    every: list[float] = []

    async def podium() -> float:
        taken = []
        for _ in range(jobs):
            taken.append(await _to_first_result(client, texts))
        every.extend(taken)
        return rounds.percentile(taken, 0.5) * 1e3

    async def bare() -> float:
        request = [_request(texts, "hash-384").SerializeToString()]
        return rounds.percentile([await hop.send(request, 1) for _ in range(jobs)], 0.5) * 1e3

    figures = await rounds.alternate({"podium": podium, "bare": bare}, count)
    warm = every[jobs:]
    found = report.line(
        "first_result",
        figures["podium"],
        figures["bare"],
        what="from submit to the first result, one job at a time, warm worker (p50)",
        against="one bare unary call with the same request (p50)",
        unit="ms",
        precision=_PRECISION,
        counts=f"{jobs} jobs of {_SMALL_JOB} texts a round",
        goals=(report.at_most(15, "p50 ms"), report.at_most(50, "p99 ms")),
        extra={"p50 ms": rounds.percentile(warm, 0.5) * 1e3, "p99 ms": rounds.percentile(warm, 0.99) * 1e3},
    )
    return [found]


async def _to_first_result(client: podium_client.AsyncClient, texts: list[str]) -> float:
    started = time.perf_counter()
    job = await client.submit(texts, workload="hash-384")
    seconds = 0.0
    cursor = ""
    async for chunk in client.results(job.job_id):
        seconds = seconds or time.perf_counter() - started
        cursor = chunk.cursor
    await client.release(job.job_id, cursor)
    return seconds


async def admission(
    client: podium_client.AsyncClient, hop: bare_hop.Hop, count: int, *, jobs: int
) -> list[report.Line]:
    """(e) Items admitted in large jobs, of a workload that no worker here serves."""
    texts = _texts(_JOB_ITEMS)
    items = jobs * _JOB_ITEMS
    requests = [_request(texts, "multilingual-e5-small").SerializeToString() for _ in range(jobs)]

    async def podium() -> float:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> str:
            async with gate:
                return (await client.submit(texts, workload="multilingual-e5-small")).job_id

        started = time.perf_counter()
        submitted = await asyncio.gather(*(one() for _ in range(jobs)))
        seconds = time.perf_counter() - started
        for job_id in submitted:
            await client.cancel(job_id)
        return items / seconds

    async def bare() -> float:
        return items / await hop.send(requests, _AT_ONCE)

    figures = await rounds.alternate({"podium": podium, "bare": bare}, count)
    found = report.line(
        "admission",
        figures["podium"],
        figures["bare"],
        what="items admitted, SDK to ledger, durable when answered",
        against="the serialized requests sent to a bare unary method that drops them",
        unit="items/s",
        precision="no computation",
        counts=f"{jobs} jobs of {_JOB_ITEMS:,} texts, {_AT_ONCE} at once",
        goals=(report.at_least(100_000, report.PODIUM),),
    )
    return [found]


def _request(texts: list[str], workload: str) -> gateway_pb2.SubmitBatchRequest:
    request = gateway_pb2.SubmitBatchRequest(request_id=str(uuid.uuid4()), workload=workload)
    for text in texts:
        request.texts.items.add(text=text)
    return request
