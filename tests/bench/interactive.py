"""(d) Embed, one text a call: idle, and under saturating bulk, against the bare model call; and what bulk loses by it.

Under bulk the calls come at a steady pace whether or not earlier ones were answered, so a slow answer delays nobody's
clock. What one micro-batch takes is the worker's own account of the bulk run without calls: seconds of computing for a
token, times the budget. The budget counts padding and the account does not, which makes it a few hundredths too long.
"""

from __future__ import annotations

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
