"""(a) MiniLM through the whole system against the bare loop, at equal precision and threads."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt

import podium_client
from tests.bench import children, corpus, report, rounds

_PRECISION = "float32 on both sides"
# One run of the bare loop should take about this long, so that a slow machine takes no longer than a fast one.
_RUN_S = 3.0
_BATCH = 256


class _Sides:
    """Both sides of one corpus: texts/s."""

    def __init__(self, client: podium_client.AsyncClient, bare: children.Child, folder: Path, texts: list[str]) -> None:
        self._client = client
        self._bare = bare
        self._texts = texts
        self._corpus = folder / f"{uuid.uuid4()}.json"
        self._corpus.write_text(json.dumps(texts), encoding="utf-8")
        self._out = folder / f"{uuid.uuid4()}.npy"
        self._vectors: npt.NDArray[np.float32] | None = None

    async def podium(self) -> float:
        started = time.perf_counter()
        found = await self._client.embed_texts(self._texts, workload="minilm", run=str(uuid.uuid4()))
        seconds = time.perf_counter() - started
        self._vectors = np.asarray(found.vectors)
        return len(self._texts) / seconds

    async def encode(self) -> float:
        return await self._ask("encode")

    async def input_order(self) -> float:
        return await self._ask("input_order")

    async def _ask(self, mode: str) -> float:
        said = await self._bare.ask(corpus=str(self._corpus), mode=mode, out=str(self._out))
        return len(self._texts) / float(said["seconds"])

    def least_cosine(self) -> float:
        """Of all items, between both sides' vectors, which are normalised."""
        assert self._vectors is not None
        theirs = np.load(self._out).astype(np.float64)
        ours = self._vectors.astype(np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return float((np.einsum("ij,ij->i", ours, theirs) / norms).min())


async def _fitting(
    client: podium_client.AsyncClient, bare: children.Child, folder: Path, sample: list[str], most: int
) -> int:
    """How many texts make a run of about _RUN_S: whole batches, at least two of them and at most `most` texts."""
    rate = await _Sides(client, bare, folder, sample).encode()
    return min(most, max(2, round(rate * _RUN_S / _BATCH)) * _BATCH)


async def measure(client: podium_client.AsyncClient, count: int, *, short: int, mixed: int) -> list[report.Line]:
    """Lines for at most `short` short texts and at most `mixed` texts of mixed lengths, `count` rounds each."""
    words = corpus.vocabulary()
    threads = report.cores()
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with children.started("tests.bench.bare_model", "--threads", str(threads)) as bare:
            await bare.answer()
            short = await _fitting(client, bare, Path(name), corpus.short(words, min(short, _BATCH)), short)
            sides = _Sides(client, bare, Path(name), corpus.short(words, short))
            short_figures = await rounds.alternate({"podium": sides.podium, "encode": sides.encode}, count)
            short_cosine = sides.least_cosine()
            mixed = await _fitting(client, bare, Path(name), corpus.mixed(words, min(mixed, _BATCH)), mixed)
            sides = _Sides(client, bare, Path(name), corpus.mixed(words, mixed))
            runs = {"podium": sides.podium, "encode": sides.encode, "input_order": sides.input_order}
            mixed_figures = await rounds.alternate(runs, count)
            mixed_cosine = sides.least_cosine()

    def line(kind: str, against: str, figures: dict[str, list[float]], texts: int, **rest: object) -> report.Line:
        return report.line(
            f"minilm_{kind}",
            figures["podium"],
            figures[against],
            what=f"MiniLM, {kind} texts, whole system, one worker",
            against={
                "encode": "SentenceTransformer.encode, one call (sorted by length)",
                "input_order": "SentenceTransformer.encode of 32 texts at a time, as they come",
            }[against],
            unit="texts/s",
            precision=_PRECISION,
            counts=f"{texts:,} texts, {threads} threads each",
            **rest,
        )

    cosine = "least cosine to the other's vectors"
    return [
        line("short", "encode", short_figures, short, target=0.9, extra={cosine: short_cosine}),
        line("mixed", "input_order", mixed_figures, mixed, target=1.3, extra={cosine: mixed_cosine}),
        line("mixed", "encode", mixed_figures, mixed),
    ]
