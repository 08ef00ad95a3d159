"""The lookout wakes whose business it is, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from podium_scheduler.app import lookout, records

NOTHING = records.Due(lost_leases=False, over_jobs=False, consumers=False, waiting=False)


class Ledger:
    """Something is due."""

    def __init__(self, **due: bool) -> None:
        self.is_due = records.Due(**{name: due.get(name, False) for name in records.Due.__dataclass_fields__})

    async def due(self) -> records.Due:
        return self.is_due


async def woken(looks: int, **due: bool) -> set[str]:
    events = {name: asyncio.Event() for name in ("feeder", "rescuer", "janitor", "consumer_keeper")}
    loop = lookout.Lookout(Ledger(**due), **events)
    for _ in range(looks):
        assert 0 < await loop.run_once() <= 0.25
    return {name for name, event in events.items() if event.is_set()}


@pytest.mark.parametrize(
    ("due", "at_once", "within_a_second"),
    [
        ("lost_leases", {"rescuer"}, {"rescuer"}),
        ("waiting", {"feeder"}, {"feeder"}),
        ("over_jobs", set(), {"janitor"}),
        ("consumers", set(), {"consumer_keeper"}),
    ],
)
async def test_each_is_woken_for_its_own(due: str, at_once: set[str], within_a_second: set[str]) -> None:
    assert await woken(1, **{due: True}) == at_once
    assert await woken(4, **{due: True}) == within_a_second


async def test_nobody_is_woken_for_nothing() -> None:
    assert await woken(8) == set()
