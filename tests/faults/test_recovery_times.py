"""The recovery times of docs/RELIABILITY.md, one round each, with room for a busy machine."""

from __future__ import annotations

import pytest

from tests.bench import recovery

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROOM = 3


async def test_each_is_within_thrice_its_target() -> None:
    names = [name for name, case in recovery.CASES.items() if case.target_s is not None]
    for name, (seconds,) in (await recovery.measure(1, names)).items():
        target = recovery.CASES[name].target_s
        assert target is not None and seconds is not None and seconds < ROOM * target, name
