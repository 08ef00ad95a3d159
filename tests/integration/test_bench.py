"""The benchmarks run and their reports are well-formed. Never how fast."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

# The others are in tests/faults/test_benchmarks_run.py: they take minutes.
PARTS = ["latency", "admission"]
LINES = ["first_result", "admission"]
SPREAD = {"median", "low", "high", "rounds"}


async def run(module: str, report: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """A quick run: its report, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--quick", "--out", str(report.parent), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        # A test that ran out of time leaves nothing that goes on measuring.
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()[-4000:]
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["quick"] and found["machine"]["cores"] >= 1
    return found, output.decode()


def check(lines: list[dict[str, Any]], names: list[str], output: str) -> None:
    assert [line["name"] for line in lines] == names
    for line in lines:
        assert line["what"] and line["against"] and line["precision"] and line["counts"] and line["unit"]
        for side in ("podium", "other", "share"):
            assert set(line[side]) == SPREAD
            assert len(line[side]["rounds"]) == 1
            assert math.isfinite(line[side]["median"]) and line[side]["low"] > 0
        assert all(math.isfinite(value) for value in line["extra"].values())
        assert line["name"] in output
        assert (line["target"] is None) == (line["met"] is None)
        for name, value in line["extra"].items():
            assert not name.startswith("least cosine") or value > 0.9999, f"{line['name']}: {name} {value}"


@pytest.mark.slow
async def test_a_quick_run_reports_its_lines(tmp_path: Path) -> None:
    found, output = await run("tests.bench", tmp_path / "report.json", *(f"--only={part}" for part in PARTS))
    check(found["lines"], LINES, output)
