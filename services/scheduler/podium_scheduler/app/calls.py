"""The interactive calls that one worker session has.

A call is the session's from the moment at which its frame is in the outbox until its answer has come, its caller has
gone, or the session is over. Nothing of it is kept anywhere else.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from podium.common.v1 import item_pb2
from podium.worker.v1 import worker_pb2


class SessionLost(Exception):
    """The session ended before it had answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked of the worker."""

    workload: str
    item_count: int
    options: item_pb2.EmbeddingOptions
    answer: asyncio.Future[worker_pb2.EmbedAnswer]
    """Ends with SessionLost when the session does."""


class Calls:
    """By the numbers that name them on the stream."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, Call] = {}
        self._over = False

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, workload: str, item_count: int, options: item_pb2.EmbeddingOptions) -> tuple[int, Call]:
        """A call is on its way. Raises SessionLost when the session is over already."""
        if self._over:
            raise SessionLost
        number = next(self._numbers)
        call = Call(workload, item_count, options, asyncio.get_running_loop().create_future())
        self._open[number] = call
        return number, call

    def get(self, number: int) -> Call | None:
        """A call that is still awaited."""
        return self._open.get(number)

    def forget(self, number: int) -> None:
        """Nobody waits for it any more."""
        self._open.pop(number, None)

    def end(self) -> None:
        """The session is over: whoever waits is told."""
        self._over = True
        for call in self._open.values():
            if not call.answer.done():
                call.answer.set_exception(SessionLost())
                # Its caller may be gone by now.
                call.answer.exception()
        self._open.clear()
