"""A few seeds of the nemesis. PODIUM_NEMESIS_SEEDS (`1-50` or `3,7`) and PODIUM_NEMESIS_SECONDS make it hours."""

from __future__ import annotations

import os

import pytest

from tests.faults.nemesis.__main__ import seeds
from tests.faults.nemesis.runner import run_seed

SEEDS = seeds(os.environ.get("PODIUM_NEMESIS_SEEDS", "1-3"))
SECONDS = float(os.environ.get("PODIUM_NEMESIS_SECONDS", "60"))
# The faults, then the way back to quiet on a busy machine.
LIMIT_S = SECONDS + 900.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(LIMIT_S)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_and_nothing_comes_twice(seed: int) -> None:
    report = await run_seed(seed, SECONDS)
    wrong = "\n".join(report.violations)
    assert report.passed, f"{wrong}\nreplay: {report.replay}\nlogs: {report.directory}"
    assert report.faults.total() >= SECONDS / 10, "too few faults happened to prove anything"
    assert report.items > 0
