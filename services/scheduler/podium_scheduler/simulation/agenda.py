"""Virtual time: what is to happen when, and the clock that the scheduler's loops are given.

Time jumps from event to event; nothing sleeps. Events of the same moment happen in the order in which they were set.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

Event = Callable[[], Awaitable[None] | None]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When every run begins: a midnight."""


class Agenda:
    """A clock (`podium_runtime.clock.Clock`) that moves as events come up. Seconds count from the begin of the run."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()
        self._now = EPOCH

    def now(self) -> datetime:
        """The time of day."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the begin."""
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """Nobody may: time moves only between events."""
        raise AssertionError("nothing sleeps in a simulation")

    def at(self, when_s: float, event: Event) -> None:
        """Sets an event; never into the past."""
        heapq.heappush(self._events, (max(when_s, self.now_s), next(self._numbers), event))

    def after(self, seconds: float, event: Event) -> None:
        """Sets an event from now."""
        self.at(self.now_s + seconds, event)

    def on_beat(self, since_s: float, every_s: float, event: Event) -> None:
        """Sets an event for the next beat, now included, of what began then and happens so often."""
        self.at(since_s + every_s * max(0, math.ceil((self.now_s - since_s) / every_s - 1e-9)), event)

    async def step(self, passing: Callable[[float, float], None], until: Callable[[float], bool]) -> bool:
        """Lets the next event happen; False: there is none, or at its time the run is over.

        `passing` is told of the time that goes by before it.
        """
        if not self._events:
            return False
        when_s, _, event = heapq.heappop(self._events)
        passing(self.now_s, when_s)
        self.now_s = when_s
        self._now = EPOCH + timedelta(seconds=when_s)
        if until(when_s):
            return False
        happening = event()
        if inspect.isawaitable(happening):
            await happening
        return True
