<<<<<<< HEAD
"""Interactive calls: what they cost beside the model, alone and beside a job that saturates the worker.

`python -m tests.bench.interactive [--workload minilm] [--calls 200]`: one JSON document. Times in milliseconds.
=======
"""(d) Embed, one text a call: idle, and under saturating bulk, against the bare model call; and what bulk loses by it.

Under bulk the calls come at a steady pace whether or not earlier ones were answered, so a slow answer delays nobody's
clock. What one micro-batch takes is the worker's own account of the bulk run without calls: seconds of computing for a
token, times the budget. The budget counts padding and the account does not, which makes it a few hundredths too long.
>>>>>>> 4fd6799 (Benchmarks: Embed idle and under saturating bulk, against the bare call)
"""

from __future__ import annotations

<<<<<<< HEAD
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
=======
import asyncio
import contextlib
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import podium_client
from tests.bench import children, corpus, report, rounds, whole_model, worker_meter
from tests.support import stack

_WORKLOAD = whole_model.FLOAT32
_CALL_S = 60.0
_WARM_S = 120.0
_LOOK_S = 0.2
# Some percent of the device: what a search box would ask of a worker that embeds a pile.
_EVERY_S = 0.1
# A pile should take the bare loop about this long: a percentile wants some calls.
_PILE_S = 6.0
# As the worker's adapters.torch.probing has it for a CPU: to import that would import torch.
_BUDGET_TOKENS = 2_048
_ALLOWED_MS = 15.0


@dataclass
class _Rig:
    """Both sides, and all that was measured in the rounds so far: seconds of each call."""

    client: podium_client.AsyncClient
    bare: children.Child
    metrics: str
    corpus: Path
    texts: list[str]
    pile: list[str]
    idle: list[list[float]] = field(default_factory=list)
    alone: list[list[float]] = field(default_factory=list)
    busy: list[list[float]] = field(default_factory=list)
    microbatches: list[float] = field(default_factory=list)
    refused: int = 0
    """Calls, of all rounds: more were in flight than an app may have."""

    async def call(self, text: str) -> float:
        """Seconds of one call."""
        started = time.perf_counter()
        found = await self.client.query_texts([text], workload=_WORKLOAD, timeout_s=_CALL_S)
        seconds = time.perf_counter() - started
        assert len(found) == 1
        return seconds

    async def embed(self) -> float:
        """p50 in milliseconds of calls one after the other, nothing else going on."""
        self.idle.append([await self.call(text) for text in self.texts])
        return rounds.percentile(self.idle[-1], 0.5) * 1e3

    async def encode(self) -> float:
        """p50 in milliseconds of the bare calls."""
        said = await self.bare.ask(corpus=str(self.corpus), mode="one_by_one", out="")
        self.alone.append([float(seconds) for seconds in said["each"]])
        return rounds.percentile(self.alone[-1], 0.5) * 1e3

    async def bulk(self) -> float:
        """Texts/s of a pile without calls; notes what a micro-batch takes."""
        before = await worker_meter.read(self.metrics)
        seconds = await self._embed_pile()
        after = await worker_meter.read(self.metrics)
        self.microbatches.append((after.busy_s - before.busy_s) / (after.tokens - before.tokens) * _BUDGET_TOKENS)
        return len(self.pile) / seconds

    async def bulk_with_calls(self) -> float:
        """Texts/s of the pile while calls come."""
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._call_until(done))
            seconds = await self._embed_pile()
            done.set()
        return len(self.pile) / seconds

    async def _embed_pile(self) -> float:
        started = time.perf_counter()
        found = await self.client.embed_texts(self.pile, workload=_WORKLOAD, run=str(uuid.uuid4()))
        assert len(found) == len(self.pile)
        return time.perf_counter() - started

    async def _call_until(self, done: asyncio.Event) -> None:
        taken: list[float] = []
        self.busy.append(taken)

        async def one(text: str) -> None:
            try:
                taken.append(await self.call(text))
            except podium_client.Overloaded:
                self.refused += 1

        texts = itertools.cycle(self.texts)
        async with asyncio.TaskGroup() as calls:
            while not done.is_set():
                calls.create_task(one(next(texts)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), _EVERY_S)


async def measure(
    client: podium_client.AsyncClient, running: stack.Stack, count: int, *, calls: int, texts: int
) -> list[report.Line]:
    """Three lines, `calls` calls a round idle, piles of at most `texts` texts."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with _rig(client, running, Path(name), calls=calls, texts=texts) as rig:
            await _warm(rig)
            idle = await rounds.alternate({"embed": rig.embed, "bare": rig.encode}, count)
            bulk = await rounds.alternate({"with calls": rig.bulk_with_calls, "alone": rig.bulk}, count)
    return [_idle_line(rig, idle), _busy_line(rig), _bulk_line(rig, bulk)]


@contextlib.asynccontextmanager
async def _rig(
    client: podium_client.AsyncClient, running: stack.Stack, folder: Path, *, calls: int, texts: int
) -> AsyncIterator[_Rig]:
    words = corpus.vocabulary()
    asked = corpus.short(words, calls)
    (folder / "calls.json").write_text(json.dumps(asked), encoding="utf-8")
    async with children.started("tests.bench.bare_model", "--threads", str(report.cores())) as bare:
        await bare.answer()
        sides = await whole_model.Rig(client, bare, folder, 1).sides("short", texts, _PILE_S)
        yield _Rig(client, bare, running.workers[0].metrics, folder / "calls.json", asked, sides.texts)


async def _warm(rig: _Rig) -> None:
    """Has the model loaded, and waits until calls are answered."""
    await rig.client.embed_texts(rig.texts[:1], workload=_WORKLOAD, run=str(uuid.uuid4()))
    async with asyncio.timeout(_WARM_S):
        while True:
            with contextlib.suppress(podium_client.Unavailable):
                await rig.call(rig.texts[0])
                return
            await asyncio.sleep(_LOOK_S)


def _idle_line(rig: _Rig, figures: dict[str, list[float]]) -> report.Line:
    over = [ours - theirs for ours, theirs in zip(figures["embed"], figures["bare"], strict=True)]
    return report.line(
        "embed_idle",
        figures["embed"],
        figures["bare"],
        what="Embed of one short text, MiniLM, one call at a time, nothing else going on (p50)",
        against="SentenceTransformer.encode of the same text in a process of its own (p50)",
        unit="ms",
        precision="float32 on both sides",
        counts=f"{len(rig.texts)} calls a round, {report.cores()} threads each",
        goals=(report.at_most(4, "overhead p50 ms"),),
        extra={
            "overhead p50 ms": rounds.spread(over).median,
            **_percentiles("", rig.idle[1:]),
            **_percentiles("bare ", rig.alone[1:]),
        },
    )


def _busy_line(rig: _Rig) -> report.Line:
    bounds = [seconds * 1e3 + _ALLOWED_MS for seconds in rig.microbatches[1:]]
    found = _percentiles("", rig.busy[1:])
    return report.line(
        "embed_under_bulk",
        [rounds.percentile(taken, 0.99) * 1e3 for taken in rig.busy[1:]],
        bounds,
        what="Embed of one short text while a pile of short texts keeps the worker busy (p99)",
        against=f"what one micro-batch of {_BUDGET_TOKENS:,} tokens takes, and {_ALLOWED_MS:.0f} ms",
        unit="ms",
        precision="float32",
        counts=f"{sum(map(len, rig.busy[1:]))} calls in all, one every {_EVERY_S * 1e3:.0f} ms",
        goals=(report.at_most(1.0, "p99 of all over the bound"), report.at_most(0, "refused calls")),
        extra={
            "refused calls": rig.refused,
            "p99 of all over the bound": found["p99 ms"] / rounds.spread(bounds).median,
            "micro-batch ms": rounds.spread(rig.microbatches[1:]).median * 1e3,
            **found,
        },
    )


def _bulk_line(rig: _Rig, figures: dict[str, list[float]]) -> report.Line:
    return report.line(
        "bulk_beside_embed",
        figures["with calls"],
        figures["alone"],
        what="a pile of short texts while Embed is called",
        against="the same pile alone",
        unit="texts/s",
        precision="float32",
        counts=f"{len(rig.pile):,} texts, a call every {_EVERY_S * 1e3:.0f} ms",
        goals=(report.at_least(0.9),),
    )


def _percentiles(whose: str, taken: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of the calls of all rounds together, in milliseconds."""
    every = [seconds for calls in taken for seconds in calls]
    return {f"{whose}{name} ms": rounds.percentile(every, share) * 1e3 for name, share in (("p50", 0.5), ("p99", 0.99))}
>>>>>>> 4fd6799 (Benchmarks: Embed idle and under saturating bulk, against the bare call)
