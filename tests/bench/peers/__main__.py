"""Podium, the bare loop and its peers over the same texts in one run, A B C A B C ...; one peer is up at a time.

A peer that cannot be installed or started is named with the reason, and the exit status says so. A missed target is
printed, as by `make bench`, and is no failure. `--quick` proves that it runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import podium_client
from tests.bench import children, report, rounds, whole_model
from tests.bench.peers import environments
from tests.support import stack

_SHORT, _MIXED = 3_072, 768
_QUICK_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, how often, and where the environments are."""

    peers: Sequence[environments.Peer] = environments.PEERS
    rounds: int = 5
    quick: bool = False
    folder: Path = Path(".bench-peers")
    torch: tuple[str, ...] = ("torch==2.13.0",)


async def measure(options: Options) -> tuple[list[report.Line], dict[str, dict[str, str]], dict[str, str]]:
    """Lines, the versions of each peer's packages, and why a peer is missing."""
    lines: list[report.Line] = []
    versions: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}
    ready = []
    for peer in options.peers:
        try:
            ready.append(await environments.installed(peer, options.folder, options.torch))
        except environments.Unavailable as reason:
            missing[peer.name] = str(reason)
    async with _rig(options) as rig:
        for environment in ready:
            name = environment.peer.name
            try:
                async with started(environment, options.folder) as (running, versions[name]):
                    lines += await _against(rig, options, running)
            except environments.Unavailable as reason:
                missing[name] = str(reason)
    return lines, versions, missing


@contextlib.asynccontextmanager
async def _rig(options: Options) -> AsyncIterator[whole_model.Rig]:
    """A whole Podium with one worker, and the bare loop."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with (
            stack.running(
                Path(name), workers=1, as_deployed=True, workloads=whole_model.FLOAT32, devices="cpu"
            ) as running,
            podium_client.AsyncClient(running.gateway.address, token=stack.APP_TOKEN) as client,
            children.started("tests.bench.bare_model", "--threads", str(report.cores())) as bare,
        ):
            await bare.answer()
            yield whole_model.Rig(client, bare, Path(name), options.rounds)


@dataclass(frozen=True, slots=True)
class _Running:
    """A peer's process, and where it says what is wrong with it."""

    peer: environments.Peer
    child: children.Child
    log: Path

    async def answer(self) -> dict[str, Any]:
        """What it is, first of all. Raises Unavailable."""
        return await self._told(self.child.answer())

    async def embed(self, corpus: Path, out: Path) -> float:
        """Seconds. Raises Unavailable."""
        return float((await self._told(self.child.ask(corpus=str(corpus), out=str(out))))["seconds"])

    async def _told(self, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await answer
        except (children.Ended, TimeoutError) as error:
            words = f"{error!r}: {environments.last_words(self.log)}"
            raise environments.Unavailable(f"did not run: {words}") from error


@contextlib.asynccontextmanager
async def started(
    environment: environments.Environment, folder: Path
) -> AsyncIterator[tuple[_Running, dict[str, str]]]:
    """The peer, warm, and the versions of what it is made of. Raises Unavailable."""
    log = folder / f"{environment.peer.name}.run.log"
    settings = {**environments.plain_environment(), "BENCH_THREADS": str(report.cores())}
    with log.open("wb") as errors:
        async with children.running(environment.command, settings, errors) as child:
            running = _Running(environment.peer, child, log)
            yield running, (await running.answer())["versions"]


async def _against(rig: whole_model.Rig, options: Options, running: _Running) -> list[report.Line]:
    """Short and mixed texts, three sides in turn."""
    peer = running.peer
    lines = []
    for kind, most in (("short", _SHORT), ("mixed", _MIXED)):
        sides = await rig.sides(kind, _QUICK_TEXTS if options.quick else most)
        out = rig.folder / f"{peer.name}.npy"

        async def theirs(sides: whole_model.Sides = sides, out: Path = out) -> float:
            return len(sides.texts) / await running.embed(sides.corpus, out)

        figures = await rounds.alternate({"podium": sides.podium, peer.name: theirs, "bare": sides.encode}, rig.rounds)
        lines.append(
            report.line(
                f"{peer.name}_{kind}",
                figures["podium"],
                figures[peer.name],
                what=f"MiniLM, {kind} texts, Podium with one worker, SDK included",
                against=f"{peer.what}, its client included",
                unit="texts/s",
                precision="float32 on both sides",
                counts=f"{len(sides.texts):,} texts, {report.cores()} threads each",
                goals=(report.at_least(1.0),),
                extra={
                    whole_model.COSINE: sides.least_cosine(out=out),
                    "bare loop, texts/s": rounds.spread(figures["bare"]).median,
                    "Podium's share of the bare loop": rounds.ratios(figures["podium"], figures["bare"]).median,
                    "the other's share of the bare loop": rounds.ratios(figures[peer.name], figures["bare"]).median,
                },
            )
        )
    return lines


def _options() -> tuple[Options, Path]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    names = [peer.name for peer in environments.PEERS]
    parser.add_argument("--only", choices=names, action="append", help="only this peer; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--folder", type=Path, default=Path(".bench-peers"), help="of the environments")
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip is told to install as torch")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of peers.json")
    asked = parser.parse_args()
    peers = [peer for peer in environments.PEERS if peer.name in (asked.only or names)]
    # Absolute: a peer's processes have folders of their own.
    options = Options(
        peers, 1 if asked.quick else asked.rounds, asked.quick, asked.folder.absolute(), tuple(shlex.split(asked.torch))
    )
    return options, asked.out


def main() -> None:
    """Installs, runs, writes, prints; exit status 1 when a peer is missing."""
    options, out = _options()
    started = time.perf_counter()
    lines, versions, missing = asyncio.run(measure(options))
    rest = {"versions_of_peers": versions, "missing": missing}
    seconds = time.perf_counter() - started
    path = report.write(out, lines, seconds, quick=options.quick, name="peers.json", **rest)
    if lines:
        report.show(lines, Console(width=max(report.WIDTH, Console().width)))
    for name, found in versions.items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in found.items())}")
    for name, reason in missing.items():
        print(f"{name} was not measured: {reason}")
    print(f"written to {path} after {seconds:.0f} s")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
