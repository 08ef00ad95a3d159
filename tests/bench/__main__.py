"""One command, one report. `--quick` proves that the benchmark runs; its figures mean nothing."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import podium_client
import podium_scheduler
from podium_runtime import logs
from tests.bench import (
    backlog,
    bare_hop,
    children,
    history,
    interactive,
    null_model,
    report,
    seeded_clip,
    whole_images,
    whole_model,
)
from tests.support import stack

PARTS = ("model", "embed", "images", "null", "latency", "admission", "history", "backlog")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; of texts for the model the most, fewer on a slow machine."""

    rounds: int = 5
    short: int = 3_072
    mixed: int = 768
    embed_calls: int = 60
    embed_pile: int = 6_144
    images: int = 1_024
    embeddings: int = 40_000
    latency_jobs: int = 40
    admission_jobs: int = 8
    finished_jobs: int = 100_000
    claims: int = 400
    waiting_jobs: int = 5_000
    backlog_claims: int = 200


QUICK = Sizes(
    rounds=1,
    short=64,
    mixed=32,
    embed_calls=3,
    embed_pile=64,
    images=8,
    embeddings=2_000,
    latency_jobs=3,
    admission_jobs=1,
    finished_jobs=20,
    claims=8,
    waiting_jobs=20,
    backlog_claims=8,
)


class Run:
    """What is asked for, what was found, and how long each part took."""

    def __init__(self, sizes: Sizes, parts: Sequence[str]) -> None:
        self.sizes = sizes
        self.parts = parts
        self.found: dict[str, list[report.Line]] = {}
        self.seconds: dict[str, float] = {}

    @property
    def lines(self) -> list[report.Line]:
        """Part by part in the order of PARTS, whatever came first."""
        return [line for part in PARTS for line in self.found.get(part, [])]

    async def all(self) -> None:
        """Everything that is asked for."""
        rounds, sizes = self.sizes.rounds, self.sizes
        if set(self.parts) - {"history", "backlog"}:
            await self._on_a_stack()
        if "history" in self.parts:
            await self._take(
                "history", history.measure(rounds, jobs=sizes.finished_jobs, batches=10, cycles=sizes.claims)
            )
        if "backlog" in self.parts:
            await self._take("backlog", backlog.measure(rounds, jobs=sizes.waiting_jobs, cycles=sizes.backlog_claims))

    async def _on_a_stack(self) -> None:
        """What needs one, on one stack of real processes."""
        sizes, quick = self.sizes, self.sizes == QUICK
        with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
            folder = Path(name)
            shipped = Path(str(podium_scheduler.__file__)).with_name("registry.yaml").read_text(encoding="utf-8")
            registry = null_model.registry(whole_model.registry(shipped))
            served = ["minilm", whole_model.BFLOAT16, "hash-384", "hash-1024"]
            if "images" in self.parts:
                clip = await seeded_clip.saved(folder / "clip", small=quick)
                registry = clip.registry(registry)
                served.append(seeded_clip.NAME)
            (folder / "registry.yaml").write_text(registry, encoding="utf-8")
            # What it is compared with computes on the CPU.
            settings = {"devices": "cpu", "fetch_allow": whole_images.ALLOWED_HOST}
            settings |= {"registry": str(folder / "registry.yaml"), "workloads": ",".join(served)}
            async with (
                stack.running(folder, workers=1, as_deployed=True, **settings) as running,
                podium_client.AsyncClient(running.gateway.address, token=stack.APP_TOKEN) as client,
            ):
                # Before the models, which leave their memory behind.
                await self._without_model(client, running)
                if "model" in self.parts:
                    model = whole_model.measure(client, sizes.rounds, short=sizes.short, mixed=sizes.mixed)
                    await self._take("model", model)
                if "embed" in self.parts:
                    calls, pile = sizes.embed_calls, sizes.embed_pile
                    embed = interactive.measure(client, running, sizes.rounds, calls=calls, texts=pile)
                    await self._take("embed", embed)
                if "images" in self.parts:
                    images = whole_images.measure(client, clip, sizes.rounds, images=sizes.images, quick=quick)
                    await self._take("images", images)

    async def _without_model(self, client: podium_client.AsyncClient, running: stack.Stack) -> None:
        sizes = self.sizes
        async with children.started("tests.bench.bare_hop") as process:
            hop = bare_hop.Hop((await process.answer())["address"])
            if "null" in self.parts:
                await self._take("null", null_model.measure(client, running, hop, sizes.rounds, sizes.embeddings))
            if "latency" in self.parts:
                await self._take("latency", null_model.latency(client, hop, sizes.rounds, jobs=sizes.latency_jobs))
            if "admission" in self.parts:
                jobs = sizes.admission_jobs
                await self._take("admission", null_model.admission(client, hop, sizes.rounds, jobs=jobs))
            await hop.close()

    async def _take(self, part: str, measuring: Awaitable[list[report.Line]]) -> None:
        started = time.perf_counter()
        self.found[part] = await measuring
        self.seconds[part] = round(time.perf_counter() - started, 1)


def main() -> None:
    """Runs, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of report.json")
    asked = parser.parse_args()
    # The scheduler's own code runs in this process too, where nobody sets this.
    logs.configure("WARNING", "console", "bench")
    sizes = QUICK if asked.quick else Sizes(rounds=asked.rounds)
    started = time.perf_counter()
    run = Run(sizes, asked.only or PARTS)
    asyncio.run(run.all())
    seconds = time.perf_counter() - started
    path = report.write(asked.out, run.lines, seconds, quick=asked.quick, seconds_by_part=run.seconds)
    report.show(run.lines, Console(width=max(report.WIDTH, Console().width)))
    print(f"written to {path} after {seconds:.0f} s: {', '.join(f'{p} {s:.0f} s' for p, s in run.seconds.items())}")


if __name__ == "__main__":
    main()
