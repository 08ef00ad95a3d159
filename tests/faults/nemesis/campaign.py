"""Many seeds, each in a process of its own, and one table of the faults."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.nemesis.runner import Report

_OVERHEAD_S = 900.0


async def run(seeds: Sequence[int], seconds: float, parallel: int) -> list[Report]:
    """Runs all seeds, `parallel` at a time, telling each as it ends."""
    free = asyncio.Semaphore(parallel)

    async def one(seed: int) -> Report:
        async with free:
            report = await _in_a_process(seed, seconds)
        tell(report)
        return report

    return list(await asyncio.gather(*(one(seed) for seed in seeds)))


async def _in_a_process(seed: int, seconds: float) -> Report:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.nemesis", "--seed", str(seed), "--seconds", f"{seconds:g}", "--report", "-",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds + _OVERHEAD_S):
            output, _ = await process.communicate()
        return Report.from_json(json.loads(output)["seeds"][0])
    except (TimeoutError, ValueError, LookupError) as error:
        return Report(seed, seconds, violations=[f"the run itself failed: {type(error).__name__}: {error}"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def tell(report: Report) -> None:
    """One line for a seed, and below it what was wrong."""
    faults = ", ".join(f"{label} {count}" for label, count in sorted(report.faults.items()))
    print(
        f"seed {report.seed}: {'passed' if report.passed else 'FAILED'} in {report.wall_s:.0f} s: "
        f"{report.faults.total()} faults ({faults}); {report.jobs} jobs, {report.items:,} items, "
        f"{report.deliveries:,} deliveries consumed, "
        f"{report.recomputed_batches} batches recomputed, {report.stale_outcomes} stale outcomes refused, "
        f"{report.leaders} leaders, {report.looks} looks",
        flush=True,
    )
    for violation in report.violations:
        print(f"    {violation}", flush=True)
    if not report.passed:
        print(f"    replay: {report.replay}", flush=True)
        print(f"    logs:   {report.directory}", flush=True)


def table(reports: Sequence[Report]) -> str:
    """The faults of all seeds by kind, and the sums."""
    total = _sum(reports)
    width = max((len(label) for label in total), default=0)
    lines = [f"{label:<{width}}  {count:>5}" for label, count in sorted(total.items())]
    passed = sum(r.passed for r in reports)
    return "\n".join([*lines, f"{'all':<{width}}  {total.total():>5}", f"{passed} of {len(reports)} seeds passed"])


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """For --report."""
    return {
        "passed": all(r.passed for r in reports),
        "faults": dict(sorted(_sum(reports).items())),
        "faults_total": _sum(reports).total(),
        "seeds": [r.to_json() for r in reports],
    }


def write(reports: Sequence[Report], target: str) -> None:
    """As JSON into a file, or to the standard output for `-`."""
    text = json.dumps(to_json(reports), indent=2)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def _sum(reports: Sequence[Report]) -> Counter[str]:
    return sum((r.faults for r in reports), Counter[str]())
