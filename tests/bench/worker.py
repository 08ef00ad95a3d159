"""One real worker against the bare loop of the same model on the same device, in the same precision.

No gateway, no Postgres, no Redis: a scheduler in this process keeps the worker's credits full. `--quick` proves that it
runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from podium_worker.adapters.devices import discovery
from podium_worker.domain import devices
from tests.bench import children, corpus, photos, report, rounds, seeded_clip, whole_images, worker_feed, worker_meter
from tests.support import fake_scheduler

MODELS = ("minilm", "clip")
IMAGES = 8_192
_SAMPLE_TEXTS = 256
# What the worker says of its stages is read after the first batch: there must be some more.
_LEAST_BATCHES = 4
_RUN_S = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, how often, and at most how much of it."""

    models: Sequence[str] = MODELS
    device: str = "auto"
    precision: str = "auto"
    rounds: int = 5
    texts: int = 200_000
    texts_a_batch: int = 256
    """As of minilm in the shipped registry."""
    images: int = IMAGES
    clip: str = seeded_clip.ARCHITECTURE
    """As open_clip calls it."""
    quick: bool = False


@dataclass(frozen=True, slots=True)
class _Bench:
    """One worker and how its rivals are started."""

    feed: worker_feed.Feed
    device: devices.Device
    folder: Path
    options: Options

    @contextlib.asynccontextmanager
    async def bare(self, module: str, precision: str, *arguments: str) -> AsyncIterator[children.Child]:
        """A bare loop on the same device."""
        same = ["--device", self.device.torch_name, "--precision", precision, "--threads", str(report.cores())]
        sees = {"CUDA_VISIBLE_DEVICES": self.device.visible} if self.device.visible else {}
        async with children.started(module, *same, *arguments, **sees) as child:
            yield child

    async def loaded(self, workload: str, batches: Sequence[worker_feed.Batch]) -> str:
        """Has the worker load a model; the precision it has chosen."""
        return (await self.feed.run(workload, batches)).precision


class _Ours:
    """The worker's side of one comparison; remembers what it was told."""

    def __init__(self, bench: _Bench, workload: str, batches: Sequence[worker_feed.Batch]) -> None:
        self._bench = bench
        self._workload = workload
        self._batches = batches
        self.fed: list[worker_feed.Fed] = []

    async def run(self) -> float:
        """Items/s."""
        self.fed.append(await self._bench.feed.run(self._workload, self._batches))
        return sum(batch.items for batch in self._batches) / self.fed[-1].seconds

    def found(self, out: Path) -> dict[str, object]:
        """For a line; `out`: the other's vectors."""
        spans = [fed.span for fed in self.fed[1:]]
        cosine = whole_images.least_cosine(self.fed[-1].vectors, out)
        budget = float(self._bench.feed.budget(self._workload))
        return {
            "waited": worker_meter.waited(spans),
            "stages": worker_meter.stages(spans),
            "extra": {"least cosine to the other's vectors": cosine, "micro-batch budget": budget},
        }


async def measure(options: Options) -> tuple[str, list[report.Line]]:
    """The device's name, and the lines of all models."""
    device = await _device(options.device)
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        folder = Path(name)
        clip = await _saved_clip(options, folder / "clip")
        minilm = fake_scheduler.minilm_workload()
        minilm.model.precision = options.precision
        workloads = [minilm, *([clip.workload(options.precision)] if clip is not None else [])]
        chosen = "cpu" if device.torch_name == "cpu" else str(device.index)
        settings = {"devices": chosen, "fetch_allow": whole_images.ALLOWED_HOST}
        async with worker_feed.feeding(workloads, folder, **settings) as feed:
            bench = _Bench(feed, device, folder, options)
            lines = await _minilm(bench) if "minilm" in options.models else []
            lines += await _clip(bench, clip) if clip is not None else []
            return feed.device.name, lines


async def _saved_clip(options: Options, folder: Path) -> seeded_clip.Clip | None:
    if "clip" not in options.models:
        return None
    return await seeded_clip.saved(folder, small=options.quick, architecture=options.clip)


async def _device(wanted: str) -> devices.Device:
    """The first of its kind. SystemExit when there is none."""
    found = await discovery.discover("cpu" if wanted == "cpu" else "auto", os.environ)
    if wanted == "cuda" and found.source is None:
        raise SystemExit("error: --device cuda: this machine has no GPU that NVML or nvidia-smi knows of")
    return found.devices[0]


async def _minilm(bench: _Bench) -> list[report.Line]:
    """Texts, short ones and mixed ones, against SentenceTransformer.encode."""
    words = corpus.vocabulary()
    sample = corpus.short(words, _SAMPLE_TEXTS)
    size = bench.options.texts_a_batch
    precision = await bench.loaded("minilm", worker_feed.texts(sample[:2], 1))
    lines = []
    async with bench.bare("tests.bench.bare_model", precision) as bare:
        batch = int((await bare.answer())["batch"])
        for kind, make in (("short", corpus.short), ("mixed", corpus.mixed)):
            seconds = 0.0
            for _ in range(2):
                seconds = await _encode(bare, make(words, _SAMPLE_TEXTS), bench.folder)
            wanted = round(_SAMPLE_TEXTS / seconds * _RUN_S / size) * size
            texts = make(words, max(_LEAST_BATCHES * size, min(wanted, bench.options.texts)))
            ours = _Ours(bench, "minilm", worker_feed.texts(texts, size))

            async def theirs(texts: list[str] = texts) -> float:
                return len(texts) / await _encode(bare, texts, bench.folder)

            figures = await rounds.alternate({"worker": ours.run, "bare": theirs}, bench.options.rounds)
            lines.append(
                report.line(
                    f"minilm_{kind}",
                    figures["worker"],
                    figures["bare"],
                    what=f"MiniLM, {kind} texts, {size} a batch, one worker",
                    against=f"SentenceTransformer.encode, one call (sorted by length), {batch} at a time",
                    unit="texts/s",
                    precision=f"{precision} on both sides",
                    counts=f"{len(texts):,} texts",
                    **ours.found(bench.folder / "bare.npy"),
                )
            )
    return lines


async def _encode(bare: children.Child, texts: list[str], folder: Path) -> float:
    """Seconds of one call."""
    path = folder / "corpus.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    said = await bare.ask(corpus=str(path), mode="encode", out=str(folder / "bare.npy"))
    return float(said["seconds"])


async def _clip(bench: _Bench, clip: seeded_clip.Clip) -> list[report.Line]:
    """Photographs, inline and by URL, against tensors that are ready."""
    quick = ["--quick"] if bench.options.quick else []
    one = worker_feed.images([photos.photo(224, 224, corpus.SEED)], 1)
    precision = await bench.loaded(seeded_clip.NAME, one)
    async with bench.bare("tests.bench.bare_clip", precision, "--folder", str(clip.folder), *quick) as bare:
        known = await bare.answer()
        batch = int(known["batch"])
        rate = known["rates"][str(batch)]
        images = whole_images.fitting(rate, clip.batch_items, bench.options.images)
        files = photos.files(images, photos.sizes(224, 640))
        out = bench.folder / "bare.npy"
        async with whole_images.album(files, bench.folder / "photos") as shown:
            inline = _Ours(bench, seeded_clip.NAME, worker_feed.images(shown.files, clip.batch_items))
            by_url = _Ours(bench, seeded_clip.NAME, worker_feed.images(shown.urls, clip.batch_items))

            async def theirs() -> float:
                said = await bare.ask(folder=str(shown.folder), out=str(out))
                return images / float(said["seconds"])

            runs = {"inline": inline.run, "url": by_url.run, "bare": theirs}
            figures = await rounds.alternate(runs, bench.options.rounds)
        return [
            report.line(
                f"clip_{way}",
                figures[way],
                figures["bare"],
                what=f"{clip.what}, photographs of 224 to 640 pixels, {words}, {clip.batch_items} a batch, one worker",
                against=f"open_clip with its tensors ready on the device, {batch} at a time",
                unit="images/s",
                precision=f"{precision} on both sides",
                counts=f"{images:,} JPEG files of {sum(map(len, files)) / images / 1e3:.0f} KB",
                goals=(whole_images.GOAL,),
                **side.found(out),
            )
            for way, words, side in (
                ("inline", "inline", inline),
                ("url", "by URL from this machine", by_url),
            )
        ]


def main() -> None:
    """Runs, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.worker", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {','.join(MODELS)} (default: all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--clip", default=seeded_clip.ARCHITECTURE, help="architecture, as open_clip calls it")
    parser.add_argument("--images", type=int, default=IMAGES, help="at most so many a run")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of worker.json")
    asked = parser.parse_args()
    models = asked.models.split(",")
    if unknown := set(models) - set(MODELS):
        parser.error(f"--models: {', '.join(sorted(unknown))}: choose from {', '.join(MODELS)}")
    options = Options(models, asked.device, asked.precision, asked.rounds, images=asked.images, clip=asked.clip)
    if asked.quick:
        options = Options(models, asked.device, asked.precision, 1, texts=256, texts_a_batch=64, images=8, quick=True)
    started = time.perf_counter()
    device, lines = asyncio.run(measure(options))
    seconds = time.perf_counter() - started
    path = report.write(asked.out, lines, seconds, quick=asked.quick, name="worker.json", device=device)
    report.show(lines, Console(width=max(report.WIDTH, Console().width)))
    print(f"device: {device}; written to {path}")


if __name__ == "__main__":
    main()
