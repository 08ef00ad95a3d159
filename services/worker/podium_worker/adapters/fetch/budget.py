"""Shares of something scarce: requests, requests to one host, threads of the resolver.

Promises: first come, first served; what is held never exceeds the capacity; a waiter that is cancelled leaves nothing
behind, not even when its turn came at that very moment. One event loop, no clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Budget:
    """`capacity` units, lent in shares."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def idle(self) -> bool:
        """Nobody holds a share or waits for one."""
        return self.free == self.capacity and not self._waiting

    async def take(self, units: int) -> Share:
        """Waits until `units` (at most the capacity) are free, and takes them."""
        if not 0 <= units <= self.capacity:
            raise ValueError(f"{units} of {self.capacity}")
        if self._waiting or units > self.free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((units, turn))
            try:
                await turn
            except asyncio.CancelledError:
                self._leave(units, turn)
                raise
        else:
            self.free -= units
        return Share(self, units)

    def give_back(self, units: int) -> None:
        """Frees `units`; those who wait get them in order."""
        self.free += units
        while self._waiting and self._waiting[0][0] <= self.free:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= wanted
                turn.set_result(None)

    def _leave(self, units: int, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self.give_back(units)
        else:
            # Not there any more if its turn would have come between the cancellation and now.
            with contextlib.suppress(ValueError):
                self._waiting.remove((units, turn))
            # The next one may want less.
            self.give_back(0)


class Share:
    """Units of a budget. Given back once, however often it is said."""

    def __init__(self, budget: Budget, units: int) -> None:
        self._budget = budget
        self.units = units

    def release(self) -> None:
        """Gives back all of it."""
        units, self.units = self.units, 0
        self._budget.give_back(units)


class Turns:
    """Requests under way: at most `per_host` to one host, `total` to all.

    Who waits for its host holds no place among all, so that a slow host keeps only its own waiting.
    """

    def __init__(self, total: int, per_host: int) -> None:
        self._total = Budget(total)
        self._per_host = per_host
        self._hosts: dict[str, Budget] = {}

    @property
    def idle(self) -> bool:
        """Nobody has or wants a turn."""
        return self._total.idle and not self._hosts

    @contextlib.asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Waits for a turn, and holds it while the block runs."""
        budget = self._hosts.setdefault(host, Budget(self._per_host))
        try:
            place = await budget.take(1)
            try:
                seat = await self._total.take(1)
                try:
                    yield
                finally:
                    seat.release()
            finally:
                place.release()
        finally:
            if budget.idle and self._hosts.get(host) is budget:
                del self._hosts[host]
