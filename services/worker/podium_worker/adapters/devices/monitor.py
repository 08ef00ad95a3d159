"""The monitor: reads the GPUs again and again, and tells the worker what to think of each.

Promises: each round gives every device one reading, a device that cannot be read too; the first comes at once, and an
XID brings one forward. Clock: monotonic, injected. Failure: none of its own; a driver that hangs costs each round its
bound, and its devices are called silent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from podium_runtime import clock
from podium_worker.adapters.devices import source
from podium_worker.domain import devices, health


class Listener(Protocol):
    """The worker, as the monitor needs it. Returns at once."""

    def device_read(self, index: int, reading: health.Reading, verdict: health.Verdict) -> None:
        """How a device does now."""


class Monitor:
    """Watches the GPUs that `knows` knows about."""

    def __init__(
        self,
        watched: Sequence[devices.Device],
        knows: source.Source | None,
        listener: Listener,
        time: clock.Clock,
        *,
        limits: health.Limits | None = None,
        interval_s: float = 2.0,
    ) -> None:
        self._watched = tuple(device for device in watched if device.visible)
        self._source = knows
        self._listener = listener
        self._clock = time
        self._limits = limits or health.Limits()
        self._interval_s = interval_s
        self._states = {device.index: health.State() for device in self._watched}
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; returns at once where there are no GPUs."""
        if self._source is None or not self._watched:
            return
        loop = asyncio.get_running_loop()

        def notice() -> None:
            # From another thread, and the loop may have ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._hurry.set)

        self._source.watch(self._watched, notice)
        try:
            while True:
                self._hurry.clear()
                await self.run_once()
                await self._pause()
        finally:
            self._source.close()

    async def run_once(self) -> None:
        """One reading of each."""
        if self._source is None:
            return
        for reading in await self._source.read(self._watched):
            now = self._clock.monotonic()
            state, verdict = health.judge(self._states[reading.index], reading, now, self._limits)
            self._states[reading.index] = state
            self._listener.device_read(reading.index, reading, verdict)

    async def _pause(self) -> None:
        """The interval, or until something has happened."""
        waits = [
            asyncio.ensure_future(self._clock.sleep(self._interval_s)),
            asyncio.ensure_future(self._hurry.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
