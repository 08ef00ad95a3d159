"""A queue with two lanes: what is urgent goes ahead of all that is not, each lane first in, first out.

For one event loop. Nothing here bounds it: whoever puts bounds what they put.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")
_URGENT, _USUAL = 0, 1


class TwoLanes(Generic[T]):
    """The queue."""

    def __init__(self) -> None:
        self._queue: asyncio.PriorityQueue[tuple[int, int, T]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()

    def put_nowait(self, item: T) -> None:
        """Behind everything."""
        self._queue.put_nowait((_USUAL, next(self._numbers), item))

    def urge(self, item: T) -> None:
        """Behind what is urgent, ahead of the rest."""
        self._queue.put_nowait((_URGENT, next(self._numbers), item))

    async def get(self) -> T:
        """Waits for the next item."""
        return (await self._queue.get())[2]

    def get_nowait(self) -> T:
        """The next item. Raises asyncio.QueueEmpty."""
        return self._queue.get_nowait()[2]

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._queue.empty()

    def qsize(self) -> int:
        """What waits."""
        return self._queue.qsize()
