"""Memory of bodies while they come in.

Promises: what is held never exceeds the capacity; a body holds what has come of it and not what may still come, so that
a server that sends slowly keeps little from others; whoever waits to hold more gets it in the end. That is the banker's
algorithm: nothing is lent after which the bodies that still grow could not come to their limits one after the other, so
they never all wait for one another. Older bodies go first; one that would endanger the others is passed until they have
made room. What is whole needs nothing any more, and its holder gives it back without waiting for any other.

A waiter that is cancelled leaves nothing behind but what it held. One event loop, no clock.
"""

from __future__ import annotations

import asyncio

# Asked for at once, so that small files ask once.
_STEP_BYTES = 128 * 1024


class Memory:
    """`capacity` bytes, lent to bodies that grow."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.free = capacity
        self._growing: list[Room] = []
        """The oldest first."""
        self._whole = 0
        """Bytes of those that do not grow any more."""

    @property
    def idle(self) -> bool:
        """Nobody holds any of it, or may."""
        return self.free == self.capacity and not self._growing

    def room(self, limit: int) -> Room:
        """For a body of at most `limit` bytes. It holds nothing yet; `release` it in any case."""
        if not 0 <= limit <= self.capacity:
            raise ValueError(f"{limit} of {self.capacity}")
        room = Room(self, limit)
        self._growing.append(room)
        return room

    def lend(self) -> None:
        """Gives those who wait what they may have."""
        for room in self._growing:
            if room.turn is None or room.turn.done() or not self._is_safe(room):
                continue
            more = room.wanted - room.units
            if more > self.free:
                # What is whole will be given back, and is not for the younger ones.
                return
            self.free -= more
            room.units = room.wanted
            room.turn.set_result(None)

    def stop_growing(self, room: Room) -> None:
        """It is whole, or over."""
        self._growing.remove(room)
        self._whole += room.units

    def give_back(self, units: int) -> None:
        """Of something whole."""
        self._whole -= units
        self.free += units
        self.lend()

    def _is_safe(self, asking: Room) -> bool:
        """Whether all that grow could come to their limits, one after the other, if this one got what it wants."""
        left = self.free + self._whole - (asking.wanted - asking.units)
        if left < 0:
            return False
        held = [(room, room.wanted if room is asking else room.units) for room in self._growing]
        for missing, units in sorted((room.limit - units, units) for room, units in held):
            if missing > left:
                return False
            left += units
        return True


class Room:
    """What one body holds."""

    def __init__(self, memory: Memory, limit: int) -> None:
        self._memory = memory
        self.limit = limit
        self.units = 0
        self.wanted = 0
        self.turn: asyncio.Future[None] | None = None
        """While it waits."""
        self._grows = True

    async def grow(self, units: int) -> None:
        """Waits until it holds `units` at least, which is no more than the limit."""
        if not units <= self.limit:
            raise ValueError(f"{units} of {self.limit}")
        if units <= self.units:
            return
        self.wanted = min(self.limit, max(units, self.units + _STEP_BYTES))
        self.turn = asyncio.get_running_loop().create_future()
        self._memory.lend()
        try:
            await self.turn
        finally:
            self.turn = None

    def settle(self, units: int) -> None:
        """The body is whole, and has so many bytes: keeps only these."""
        if self._grows:
            self._grows = False
            self._memory.stop_growing(self)
        kept = min(units, self.units)
        surplus, self.units = self.units - kept, kept
        self._memory.give_back(surplus)

    def release(self) -> None:
        """Gives back all of it. Once, however often it is said."""
        self.settle(0)
