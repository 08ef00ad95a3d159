"""The leader's loops run while this replica leads, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import Gauge

from podium_runtime import logs, supervision
from podium_scheduler.app import loops, ports

log = logs.get_logger(__name__)
LEADS = Gauge("podium_leader", "1 while this replica leads.")
_INTERVAL_S = 1.0


class Leader(loops.PatientLoop):
    """Tries to lead; while it does, keeps the singleton loops running and confirms the lock every round."""

    name = "leader"

    def __init__(self, leadership: ports.Leadership, make_loops: Callable[[], Sequence[supervision.Loop]]) -> None:
        super().__init__()
        self._leadership = leadership
        self._make_loops = make_loops
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def round(self) -> float:
        """Takes, confirms or loses the lead."""
        if self._running is None:
            if await self._leadership.attempt():
                self._stop = asyncio.Event()
                self._running = asyncio.create_task(supervision.Supervisor(self._make_loops()).run(self._stop))
        elif self._running.done():
            # A singleton loop died: so does the process.
            self._running.result()
        elif not await self._leadership.confirm():
            await self._end()
        LEADS.set(int(self._leadership.leads))
        return _INTERVAL_S

    async def close(self) -> None:
        """Stops the loops, then gives the lock back."""
        await self._end()
        await self._leadership.resign()

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._stop.set()
            await asyncio.gather(running, return_exceptions=True)
