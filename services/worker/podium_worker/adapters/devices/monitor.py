"""The monitor: reads the GPUs again and again, and tells the worker what to think of each.

Promises: each round gives every device one reading, a device that cannot be read too; the first comes at once, and an
XID brings one forward. GPUs that were in trouble when they were found are FAULTED and looked for again; one that can be
reached is `found`, and returns as any other does, after good readings. Clock: monotonic, injected. Failure: none of its
own; a driver that hangs costs each round its bound, and its devices are called silent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from podium_runtime import clock
from podium_worker.adapters.devices import source
from podium_worker.domain import devices, health


class Listener(Protocol):
    """The worker, as the monitor needs it. Returns at once."""

    def device_read(self, index: int, reading: health.Reading, verdict: health.Verdict) -> None:
        """How a device does now."""


Found = Callable[[devices.Device], None]
"""Told all about a device that was in trouble when it was found."""


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
        look_s: float = 10.0,
        found: Found = lambda device: None,
    ) -> None:
        """`look_s`: between two looks for GPUs in trouble."""
        gpus = [device for device in watched if device.torch_name != "cpu"]
        self._watched = {gpu.index: gpu for gpu in gpus if not gpu.trouble}
        self._in_trouble = {gpu.index: gpu for gpu in gpus if gpu.trouble}
        self._source = knows
        self._listener = listener
        self._clock = time
        self._limits = limits or health.Limits()
        self._interval_s, self._look_s = interval_s, look_s
        self._found = found
        self._states = {index: health.State() for index in self._watched}
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; returns at once where there are no GPUs."""
        if self._source is None or not (self._watched or self._in_trouble):
            return
        loop = asyncio.get_running_loop()

        def notice() -> None:
            # From another thread, and the loop may have ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._hurry.set)

        self._source.watch(tuple(self._watched.values()), notice)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_again(self._source, notice))
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
        for gpu in self._in_trouble.values():
            reading = source.troubled(gpu, health.Trouble.UNREADABLE, gpu.trouble)
            self._listener.device_read(gpu.index, reading, health.Verdict(health.Health.FAULTED, gpu.trouble))
        for reading in await self._source.read(tuple(self._watched.values())):
            now = self._clock.monotonic()
            state, verdict = health.judge(self._states[reading.index], reading, now, self._limits)
            self._states[reading.index] = state
            self._listener.device_read(reading.index, reading, verdict)

    async def _look_again(self, knows: source.Source, notice: Callable[[], None]) -> None:
        """Beside the readings, for a look takes as long as the driver likes."""
        while self._in_trouble:
            await self._clock.sleep(self._look_s)
            for gpu in await knows.find() or ():
                before = self._in_trouble.get(gpu.index)
                if before is None or any(gpu.uuid == other.uuid for other in self._watched.values()):
                    continue
                if gpu.trouble:
                    self._in_trouble[gpu.index] = gpu
                    continue
                del self._in_trouble[gpu.index]
                self._states[gpu.index] = health.State(health.Health.FAULTED, before.trouble)
                self._watched[gpu.index] = gpu
                knows.watch((gpu,), notice)
                self._found(gpu)

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
