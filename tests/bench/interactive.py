"""Interactive calls: what they cost beside the model, alone and beside a job that saturates the worker.

`python -m tests.bench.interactive [--workload minilm] [--calls 200]`: one JSON document. Times in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from podium_client import AsyncClient
from tests.support import embed_calls, processes, stack

QUERY = "how do interactive calls go ahead of batches number {n}?"
BULK = "a passage of a job that is there to keep the worker busy, with some more words in it, number {n}. "
_JOB_ITEMS = 4_000
_PAUSE_S = 0.1


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", default="minilm")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase with a job")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(_run(Path(folder), options.workload, options.calls, options.seconds))
    print(json.dumps(report, indent=2))


async def _run(folder: Path, workload: str, calls: int, seconds: float) -> dict[str, object]:
    async with stack.running(folder) as running, embed_calls.caller(running) as caller:
        await caller.warm(workload, 300.0)
        for n in range(20):
            await caller.embed([QUERY.format(n=n)], workload)
        before = await _device_s(running)
        idle = [await _one(caller, workload, n) for n in range(calls)]
        model_ms = (await _device_s(running) - before) / calls * 1e3
        async with AsyncClient(running.gateway.address, stack.APP_TOKEN) as client:
            texts = [BULK.format(n=n) * (1 + n % 7) for n in range(_JOB_ITEMS)]
            await client.embed_texts(texts[:500], workload=workload)
            alone = await _bulk(client, running, texts, workload, seconds, [])
            beside: list[float] = []
            both = await _bulk(client, running, texts, workload, seconds, beside, caller)
    return {
        "workload": workload,
        "idle": _spread(idle) | {"model_mean": round(model_ms, 2)},
        "beside_a_job": _spread(beside),
        "job_items_per_s": {"alone": round(alone, 1), "beside_calls": round(both, 1), "kept": round(both / alone, 3)},
    }


async def _bulk(
    client: AsyncClient,
    running: stack.Stack,
    texts: Sequence[str],
    workload: str,
    seconds: float,
    times: list[float],
    caller: embed_calls.Caller | None = None,
) -> float:
    """Items a second of jobs one after the other; calls beside them at a tenth of a second's distance."""
    (worker,) = running.workers
    stop = asyncio.Event()

    async def feed(lane: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await client.embed_texts(texts, workload=workload, run=f"{time.monotonic()}-{lane}-{number}")

    feeders = [asyncio.create_task(feed(lane)) for lane in range(2)]
    await asyncio.sleep(3)
    began, items = time.monotonic(), await _items(worker, workload)
    while time.monotonic() - began < seconds:
        if caller is not None:
            times.append(await _one(caller, workload, len(times)))
        await asyncio.sleep(_PAUSE_S)
    rate = (await _items(worker, workload) - items) / (time.monotonic() - began)
    stop.set()
    for feeder in feeders:
        feeder.cancel()
    await asyncio.gather(*feeders, return_exceptions=True)
    async for job in client.jobs(states=["pending", "running"]):
        await client.cancel(job.job_id)
    return rate


async def _one(caller: embed_calls.Caller, workload: str, number: int) -> float:
    began = time.perf_counter()
    await caller.embed([QUERY.format(n=number)], workload, timeout_s=60.0)
    return (time.perf_counter() - began) * 1e3


async def _items(worker: stack.Service, workload: str) -> float:
    return await processes.metric(worker.metrics, "podium_worker_items_computed_total", workload=workload)


async def _device_s(running: stack.Stack) -> float:
    return await processes.metric(running.workers[0].metrics, "podium_worker_device_busy_seconds_total")


def _spread(times: Sequence[float]) -> dict[str, object]:
    ordered = sorted(times)
    return {
        "calls": len(ordered),
        "p50": round(statistics.median(ordered), 2),
        "p90": round(ordered[int(len(ordered) * 0.9)], 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
    }


if __name__ == "__main__":
    main()
