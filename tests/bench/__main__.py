"""One command, one report. `--quick` proves that the benchmark runs; its figures mean nothing."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import podium_client
import podium_scheduler
from tests.bench import bare_hop, children, history, null_model, report, seeded_clip, whole_images, whole_model
from tests.support import stack

PARTS = ("model", "images", "null", "latency", "admission", "history")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; of texts for the model the most, fewer on a slow machine."""

    rounds: int = 5
    short: int = 3_072
    mixed: int = 768
    images: int = 1_024
    embeddings: int = 40_000
    latency_jobs: int = 40
    admission_jobs: int = 8
    finished_jobs: int = 100_000
    claims: int = 400


QUICK = Sizes(
    rounds=1,
    short=64,
    mixed=32,
    images=8,
    embeddings=2_000,
    latency_jobs=3,
    admission_jobs=1,
    finished_jobs=20,
    claims=8,
)


async def run(sizes: Sizes, parts: list[str]) -> list[report.Line]:
    """Everything that is asked for."""
    lines: list[report.Line] = []
    if set(parts) - {"history"}:
        lines += await _on_a_stack(sizes, parts)
    if "history" in parts:
        lines += await history.measure(sizes.rounds, jobs=sizes.finished_jobs, batches=10, cycles=sizes.claims)
    return lines


async def _on_a_stack(sizes: Sizes, parts: list[str]) -> list[report.Line]:
    """What needs one, on one stack of real processes."""
    lines: list[report.Line] = []
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        folder = Path(name)
        served = ["minilm", "hash-384", "hash-1024"]
        # What it is compared with computes on the CPU.
        settings = {"devices": "cpu", "fetch_allow": whole_images.ALLOWED_HOST}
        quick = sizes == QUICK
        clip: seeded_clip.Clip | None = None
        if "images" in parts:
            clip = await seeded_clip.saved(folder / "clip", small=quick)
            served.append(seeded_clip.NAME)
        settings["registry"] = str(_registry(clip, folder / "registry.yaml"))
        async with (
            stack.running(folder, workers=1, workloads=",".join(served), **settings) as running,
            podium_client.AsyncClient(running.gateway.address, token=stack.APP_TOKEN) as client,
        ):
            if "model" in parts:
                lines += await whole_model.measure(client, sizes.rounds, short=sizes.short, mixed=sizes.mixed)
            if clip is not None:
                lines += await whole_images.measure(client, clip, sizes.rounds, images=sizes.images, quick=quick)
            lines += await _without_model(client, sizes, parts)
    return lines


def _registry(clip: seeded_clip.Clip | None, path: Path) -> Path:
    """Writes the shipped registry with the null model's batches, and with the seeded model in it."""
    shipped = Path(str(podium_scheduler.__file__)).with_name("registry.yaml")
    text = null_model.registry(shipped.read_text(encoding="utf-8"))
    path.write_text(clip.registry(text) if clip is not None else text, encoding="utf-8")
    return path


async def _without_model(client: podium_client.AsyncClient, sizes: Sizes, parts: list[str]) -> list[report.Line]:
    lines = []
    async with children.started("tests.bench.bare_hop") as process:
        hop = bare_hop.Hop((await process.answer())["address"])
        if "null" in parts:
            for dimension, items in ((384, sizes.embeddings), (1024, sizes.embeddings // 2)):
                lines.append(await null_model.throughput(client, hop, sizes.rounds, dimension=dimension, items=items))
        if "latency" in parts:
            lines.append(await null_model.latency(client, hop, sizes.rounds, jobs=sizes.latency_jobs))
        if "admission" in parts:
            lines.append(await null_model.admission(client, hop, sizes.rounds, jobs=sizes.admission_jobs))
        await hop.close()
    return lines


def main() -> None:
    """Runs, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of report.json")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else Sizes(rounds=asked.rounds)
    started = time.perf_counter()
    lines = asyncio.run(run(sizes, asked.only or list(PARTS)))
    path = report.write(asked.out, lines, time.perf_counter() - started, quick=asked.quick)
    report.show(lines, Console(width=max(110, Console().width)))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
