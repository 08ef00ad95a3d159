"""The benchmark runs and its report is well-formed. Never how fast."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path

import pytest

LINES = [
    "minilm_short", "minilm_mixed", "minilm_mixed", "hash_384", "hash_1024", "first_result", "admission",
    "claim_history_hot", "claim_history_archived",
]  # fmt: skip
SPREAD = {"median", "low", "high", "rounds"}


@pytest.mark.slow
async def test_a_quick_run_reports_every_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench", "--quick", "--out", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-4000:]
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["quick"] and found["machine"]["cores"] >= 1
    assert [line["name"] for line in found["lines"]] == LINES
    for line in found["lines"]:
        assert line["what"] and line["against"] and line["precision"] and line["counts"] and line["unit"]
        for side in ("podium", "other", "share"):
            assert set(line[side]) == SPREAD
            assert len(line[side]["rounds"]) == 1
            assert math.isfinite(line[side]["median"]) and line[side]["low"] > 0
        assert line["name"] in output.decode()
