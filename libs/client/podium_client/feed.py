"""Reading the caller's iterator without blocking the event loop.

The iterator runs in one daemon thread, one part at a time and only when asked: a caller's generator may
block (a pipe, a database cursor) for as long as it likes, and a process that wants to end does not wait for
it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator

from podium_client.parts import Part

_Request = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Part | None]"]


def _settle(future: asyncio.Future[Part | None], part: Part | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(part)


class PartFeed:
    """Parts on demand. One `next()` at a time; an exception of the iterator comes out of it."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="podium-input", daemon=True)
        self._thread.start()

    async def next(self) -> Part | None:
        """The next part, None after the last."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Part | None] = loop.create_future()
        self._requests.put((loop, future))
        return await future

    def close(self) -> None:
        """Let the thread end after the part it reads now."""
        self._requests.put(None)

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            loop, future = request
            part, error = None, None
            try:
                part = next(self._parts, None)
            except Exception as raised:
                # A future cannot carry StopIteration; from a generator it is a RuntimeError already.
                error = raised
            try:
                loop.call_soon_threadsafe(_settle, future, part, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
