"""What wakes the loops, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

from podium_scheduler.app import wakers

STEP_S = 5.0


async def test_the_first_ring_is_heard_at_once_and_those_that_follow_together() -> None:
    event = asyncio.Event()
    bell = wakers.Bell(event, 0.05)
    bell.ring()
    assert event.is_set()
    event.clear()
    for _ in range(100):
        bell.ring()
    assert not event.is_set()
    async with asyncio.timeout(STEP_S):
        await event.wait()


async def test_a_worker_that_joins_has_the_placer_woken_wherever_it_leads() -> None:
    told: list[str] = []

    class Others:
        leads = False

        async def replicas(self, word: str) -> None:
            told.append(word)

    others: Any = Others()
    woken = wakers.Wakers(others, others)
    await woken.place()
    assert woken.placer.is_set() and told == ["place"]
    others.leads = True
    woken.placer.clear()
    await woken.place()
    async with asyncio.timeout(STEP_S):
        await woken.placer.wait()
    assert told == ["place"]
