"""An event loop whose time passes only when nobody has anything to do, with sockets that work as ever.

Whoever waits for a timer has waited as soon as no socket has anything to say: a call that hangs for thirty seconds, or
a rest of a minute, costs nothing. What is sent over loopback is there when the call that sends it returns, so only the
loop's own threads are waited for; a word that comes late all the same is read after the next timer. `LoopClock` shows
the same time as a clock, so that services, stand-ins and timeouts all live on one axis.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from podium_runtime import clock

T = TypeVar("T")
_STUCK_S = 30.0
"""Real seconds for which everybody may wait for sockets alone."""


class _TimeMachine(selectors.SelectSelector):
    """Waits for sockets, not for time."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.threads = 0
        """That are at work for the loop."""

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.threads:
            ready = super().select(_STUCK_S)
            assert ready, "everybody waits for something that nobody will do"
            return ready
        self.passed += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._machine = _TimeMachine()
        super().__init__(self._machine)

    def time(self) -> float:
        return self._machine.passed

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._machine.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._machine.threads -= 1


class LoopClock(clock.FakeClock):
    """The time of the loop that runs, from `start` on. Nobody has to move it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        super().__init__(start)
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        raise AssertionError("the loop moves this clock")


def run(story: Coroutine[Any, Any, T]) -> T:
    """Runs a story on a loop of its own."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(story)
