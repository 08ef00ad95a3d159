"""Wake-ups of the loops, here and on the other replicas. They only cut a rest short; polling is the fallback."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from podium_scheduler.app import ports


class Wakers:
    """Events of this replica's loops."""

    def __init__(self, wakeups: ports.Wakeups, leadership: ports.Leadership) -> None:
        self.feeder = asyncio.Event()
        self.dispatcher = asyncio.Event()
        self.placer = asyncio.Event()
        self.autoscaler = asyncio.Event()
        self.keepers: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """Of pods, by provider."""
        self._wakeups = wakeups
        self._leadership = leadership

    async def feed(self) -> None:
        """There is something to feed, or room to feed into."""
        self.feeder.set()
        if not self._leadership.leads:
            await self._wakeups.replicas("feed")

    async def work(self) -> None:
        """There is something to claim."""
        self.dispatcher.set()
        await self._wakeups.replicas("work")

    async def place(self) -> None:
        """There is a worker to find models for."""
        self.placer.set()
        if not self._leadership.leads:
            await self._wakeups.replicas("place")

    async def keep(self) -> None:
        """There are pods to create or to destroy."""
        self.keep_here()
        if not self._leadership.leads:
            await self._wakeups.replicas("keep")

    def keep_here(self) -> None:
        """The same, told by another replica."""
        for keeper in self.keepers.values():
            keeper.set()

    async def scale(self) -> None:
        """There is something new to decide on: an operator has set limits."""
        self.autoscaler.set()
        if not self._leadership.leads:
            await self._wakeups.replicas("scale")
