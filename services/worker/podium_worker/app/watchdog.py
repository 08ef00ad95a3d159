"""The watchdog: makes the worker look at its executors, session or no session.

Clock: monotonic, injected. Only time that was really watched counts: when this process was itself stopped or starved,
what its executors said meanwhile has not been heard yet, and they are not blamed for it.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from podium_runtime import clock

_STEP_S = 0.5
_CREDIBLE_S = 2 * _STEP_S


class Watched(Protocol):
    """The worker, as the watchdog needs it."""

    def tick(self, seconds: float) -> None:
        """`seconds` more were watched."""


async def watch(worker: Watched, time: clock.Clock) -> NoReturn:
    """Runs until cancelled."""
    last = time.monotonic()
    while True:
        await time.sleep(_STEP_S)
        now = time.monotonic()
        worker.tick(min(now - last, _CREDIBLE_S))
        last = now
