"""Named background loops and the supervisor that fails the process when one of them dies.

A loop does one bounded round at a time (`run_once`) and says how long to rest. A half-alive process is worse than a
dead one: an exception that a loop does not handle itself ends `Supervisor.run`, and with it the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from podium_runtime import logs

log = logs.get_logger(__name__)

_CANCEL_AGAIN_S = 0.5
_WATCH_S = 60.0


class Loop(Protocol):
    """A background loop."""

    @property
    def name(self) -> str:
        """Its name, in logs and metrics."""

    @property
    def wake(self) -> asyncio.Event:
        """Set by anyone to cut the rest short."""

    async def run_once(self) -> float:
        """Does one bounded round; returns the seconds to rest before the next."""


class LoopDied(Exception):
    """A loop raised what it should have handled."""


class Watch:
    """A loop that dies with the first of some tasks that run by themselves, so that none of them is missed."""

    name = "tasks"

    def __init__(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        self.wake = asyncio.Event()
        self._tasks = tasks
        for task in tasks:
            task.add_done_callback(lambda _: self.wake.set())

    async def run_once(self) -> float:
        """Raises what a task raised, or LoopDied when it has ended otherwise."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise LoopDied(task.get_name())
        return _WATCH_S


class Supervisor:
    """Runs loops until told to stop or until one dies."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = loops

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`; raises LoopDied as soon as a loop raises."""
        tasks = {asyncio.create_task(self._drive(loop), name=loop.name) for loop in self._loops}
        stopper = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*tasks, stopper}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopper}:
                error = task.exception()
                log.error("loop_died", loop=task.get_name(), exc_info=error)
                raise LoopDied(task.get_name()) from error
        finally:
            await _end({*tasks, stopper})

    async def _drive(self, loop: Loop) -> None:
        while True:
            rest = await loop.run_once()
            try:
                async with asyncio.timeout(rest):
                    await loop.wake.wait()
            except TimeoutError:
                pass
            loop.wake.clear()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancels until all have ended.

    Once is not always enough: before Python 3.12, asyncio.wait_for and what is built like it may swallow a
    cancellation that arrives together with the result it waits for (https://github.com/python/cpython/issues/86296).
    """
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
