"""Wake-ups of the loops, here and on the other replicas. They only cut a rest short; polling is the fallback."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from podium_scheduler.app import ports

_PLACE_EVERY_S = 0.5


class Bell:
    """Sets an event at once, and again only when a while has passed: what many ask for in a row is done for all of them
    together."""

    def __init__(self, event: asyncio.Event, every_s: float) -> None:
        self._event = event
        self._every_s = every_s
        self._rung_at = float("-inf")
        self._later: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Now, or as soon as it may be rung again."""
        if self._later is not None:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._rung_at + self._every_s - loop.time()
        if wait_s <= 0:
            self._ring()
        else:
            self._later = loop.call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._later = None
        self._rung_at = asyncio.get_running_loop().time()
        self._event.set()


class Wakers:
    """Events of this replica's loops."""

    def __init__(self, wakeups: ports.Wakeups, leadership: ports.Leadership) -> None:
        self.feeder = asyncio.Event()
        self.dispatcher = asyncio.Event()
        self.placer = asyncio.Event()
        self._placer_bell = Bell(self.placer, _PLACE_EVERY_S)
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
        self.place_here()
        if not self._leadership.leads:
            await self._wakeups.replicas("place")

    def place_here(self) -> None:
        """The same, told by another replica. A plan is about all workers, however few have come."""
        self._placer_bell.ring()

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
