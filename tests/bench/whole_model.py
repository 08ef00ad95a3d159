"""(a) MiniLM through the whole system against the bare loop, at equal precision and threads, and at this CPU's best.

The worker's best settings on a CPU are its defaults (texts sorted by length, a budget of tokens) and the faster of two
precisions, which is found out before the rounds begin.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

import podium_client
from tests.bench import children, corpus, report, rounds

FLOAT32 = "minilm"
BFLOAT16 = "minilm-bfloat16"
"""Workloads of the registry that `registry` writes: as the shipped `minilm`, each in one precision on any device."""
_PRECISIONS = {FLOAT32: "float32", BFLOAT16: "bfloat16"}
_TRIAL_TEXTS = 64
_TRIALS = 2
# One run of the bare loop should take about this long, so that a slow machine takes no longer than a fast one.
_RUN_S = 3.0
_BATCH = 256
COSINE = "least cosine to the other's vectors"
_AGAINST = {
    "encode": "SentenceTransformer.encode, one call (sorted by length)",
    "input_order": "SentenceTransformer.encode of 32 texts at a time, as they come",
}


def registry(shipped: str) -> str:
    """The text of a registry file with MiniLM in float32, and MiniLM in bfloat16 behind what is in it."""
    found = yaml.safe_load(shipped)
    found["workloads"][FLOAT32]["model"]["precision"] = "float32"
    # Copied to the bottom: what is in two places would be written as an alias, which the registry refuses.
    entry = copy.deepcopy(found["workloads"][FLOAT32])
    entry["model"]["precision"] = "bfloat16"
    found["workloads"][BFLOAT16] = entry
    written: str = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    return written


class Sides:
    """Both sides of one corpus: texts/s."""

    def __init__(self, client: podium_client.AsyncClient, bare: children.Child, folder: Path, texts: list[str]) -> None:
        self._client = client
        self._bare = bare
        self.texts = texts
        self.corpus = folder / f"{uuid.uuid4()}.json"
        self.corpus.write_text(json.dumps(texts), encoding="utf-8")
        self._out = folder / f"{uuid.uuid4()}.npy"
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}

    async def podium(self) -> float:
        return await self._embed(FLOAT32)

    async def bfloat16(self) -> float:
        return await self._embed(BFLOAT16)

    async def _embed(self, workload: str) -> float:
        started = time.perf_counter()
        found = await self._client.embed_texts(self.texts, workload=workload, run=str(uuid.uuid4()))
        seconds = time.perf_counter() - started
        self._vectors[workload] = np.asarray(found.vectors)
        return len(self.texts) / seconds

    async def encode(self) -> float:
        return await self._ask("encode")

    async def input_order(self) -> float:
        return await self._ask("input_order")

    async def _ask(self, mode: str) -> float:
        said = await self._bare.ask(corpus=str(self.corpus), mode=mode, out=str(self._out))
        return len(self.texts) / float(said["seconds"])

    def least_cosine(self, workload: str = FLOAT32, out: Path | None = None) -> float:
        """Of all items, between our vectors and those in `out` (the bare loop's), which are normalised."""
        theirs = np.load(out or self._out).astype(np.float64)
        ours = self._vectors[workload].astype(np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return float((np.einsum("ij,ij->i", ours, theirs) / norms).min())


@dataclass(frozen=True, slots=True)
class Rig:
    """What all comparisons share."""

    client: podium_client.AsyncClient
    bare: children.Child
    folder: Path
    rounds: int

    async def sides(self, kind: str, most: int, run_s: float = _RUN_S) -> Sides:
        """Both sides of as many texts as make a run of about `run_s`: whole batches, at most `most` texts."""
        words, make = corpus.vocabulary(), {"short": corpus.short, "mixed": corpus.mixed}[kind]
        sample = Sides(self.client, self.bare, self.folder, make(words, min(most, _BATCH)))
        await sample.encode()
        texts = min(most, max(2, round(await sample.encode() * run_s / _BATCH)) * _BATCH)
        return Sides(self.client, self.bare, self.folder, make(words, texts))

    async def fastest(self) -> tuple[str, dict[str, float]]:
        """The workload whose precision is the fastest here, and texts/s of each."""
        sides = Sides(self.client, self.bare, self.folder, corpus.mixed(corpus.vocabulary(), _TRIAL_TEXTS))
        figures = await rounds.alternate({FLOAT32: sides.podium, BFLOAT16: sides.bfloat16}, _TRIALS)
        rates = {workload: max(taken) for workload, taken in figures.items()}
        return max(rates, key=lambda workload: rates[workload]), rates


async def measure(client: podium_client.AsyncClient, count: int, *, short: int, mixed: int) -> list[report.Line]:
    """Lines for at most `short` short texts and at most `mixed` texts of mixed lengths, `count` rounds each."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with children.started("tests.bench.bare_model", "--threads", str(report.cores())) as bare:
            await bare.answer()
            rig = Rig(client, bare, Path(name), count)
            return [await _short(rig, short), *await _mixed(rig, mixed)]


async def _short(rig: Rig, most: int) -> report.Line:
    sides = await rig.sides("short", most)
    figures = await rounds.alternate({FLOAT32: sides.podium, "encode": sides.encode}, rig.rounds)
    extra = {COSINE: sides.least_cosine()}
    return _line("short", "short", figures, "encode", sides, goals=(report.at_least(0.97),), extra=extra)


async def _mixed(rig: Rig, most: int) -> list[report.Line]:
    fastest, rates = await rig.fastest()
    sides = await rig.sides("mixed", most)
    runs = {FLOAT32: sides.podium, "encode": sides.encode, "input_order": sides.input_order}
    if fastest != FLOAT32:
        runs[fastest] = sides.bfloat16
    figures = await rounds.alternate(runs, rig.rounds)
    tried = {f"tried in {_PRECISIONS[workload]}, texts/s": rate for workload, rate in rates.items()}
    return [
        _line(
            "mixed", "mixed", figures, "input_order", sides,
            goals=(report.at_least(1.5),), extra={COSINE: sides.least_cosine()},
        ),
        _line(
            "mixed_best", "mixed", figures, "input_order", sides, workload=fastest,
            goals=(report.at_least(3.0),), extra={COSINE: sides.least_cosine(fastest), **tried},
        ),
        _line("mixed_sorted", "mixed", figures, "encode", sides),
    ]  # fmt: skip


def _line(
    name: str, kind: str, figures: dict[str, list[float]], against: str, sides: Sides,
    *, workload: str = FLOAT32, **rest: object,
) -> report.Line:  # fmt: skip
    precision = _PRECISIONS[workload]
    both = "float32 on both sides" if workload == FLOAT32 else f"{precision} against float32"
    return report.line(
        f"minilm_{name}",
        figures[workload],
        figures[against],
        what=f"MiniLM, {kind} texts, whole system, one worker",
        against=_AGAINST[against],
        unit="texts/s",
        precision=f"{both} (the fastest here)" if name == "mixed_best" else both,
        counts=f"{len(sides.texts):,} texts, {report.cores()} threads each",
        **rest,
    )
