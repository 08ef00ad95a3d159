"""The benchmarks that take minutes run, too, and their reports are well-formed. Never how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import test_bench

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

WORKER_LINES = ["minilm_short", "minilm_mixed", "clip_inline", "clip_url"]
LINES = {
    "model": ["minilm_short", "minilm_mixed", "minilm_mixed_best", "minilm_mixed_sorted"],
    "embed": ["embed_idle", "embed_under_bulk", "bulk_beside_embed"],
    "images": ["clip_inline", "clip_url"],
    "null": ["hash_384", "hash_1024", "memory"],
    "latency": ["first_result"],
    "admission": ["admission"],
    "history": ["claim_history_hot", "claim_history_archived"],
    "backlog": ["claim_backlog", "feed_backlog", "hand_over_backlog", "scheduler_memory"],
}
STAGES = ["fetch", "wait", "prepare", "compute", "send"]


async def test_a_quick_run_reports_every_line(tmp_path: Path) -> None:
    found, output = await test_bench.run("tests.bench", tmp_path / "report.json")
    test_bench.check(found["lines"], [name for names in LINES.values() for name in names], output)
    assert set(found["seconds_by_part"]) == set(LINES)
    # What has no target says so.
    assert [line["name"] for line in found["lines"] if line["met"] is None] == ["minilm_mixed_sorted"]


async def test_a_quick_run_of_the_worker_reports_every_line_and_stage(tmp_path: Path) -> None:
    found, output = await test_bench.run("tests.bench.worker", tmp_path / "worker.json", "--device=cpu")
    assert found["device"]
    test_bench.check(found["lines"], WORKER_LINES, output)
    for line in found["lines"]:
        # Texts are not fetched.
        assert list(line["stages"]) == STAGES["minilm" in line["name"] :]
        assert all(seconds > 0 for seconds in line["stages"].values())
        assert 0 < line["waited"] < 1
        assert line["extra"]["micro-batch budget"] >= 1
