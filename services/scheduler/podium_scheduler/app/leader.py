"""The leader's loops run while this replica leads, and only then.

They are made anew for each term, with ledgers that refuse to commit under any other. A replica that was paused and
superseded learns it at its next heartbeat or refused write, whichever comes first, and stops them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import Gauge

from podium_runtime import logs, supervision
from podium_scheduler.app import loops, ports

log = logs.get_logger(__name__)
LEADS = Gauge("podium_leader", "1 while this replica leads.")
_HEARTBEAT_S = 1.0
_STANDBY_S = 0.5


class Leader(loops.PatientLoop):
    """Tries to lead; while it does, keeps the singleton loops running and writes a heartbeat every round."""

    name = "leader"

    def __init__(
        self,
        leadership: ports.Leadership,
        wakeups: ports.Wakeups,
        make_loops: Callable[[int], Sequence[supervision.Loop]],
        forget: Sequence[Callable[[], None]] = (),
    ) -> None:
        """`forget`: what takes back the gauges that only a leader has, for the next leader has them too."""
        super().__init__()
        self._leadership = leadership
        self._wakeups = wakeups
        self._make_loops = make_loops
        self._forget = forget
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def round(self) -> float:
        """Takes, confirms or loses the lead."""
        if self._running is None:
            if await self._leadership.attempt():
                self._start()
        elif self._running.done():
            # A singleton loop died: so does the process.
            self._running.result()
        elif not await self._leadership.confirm():
            await self._end()
        LEADS.set(int(self._leadership.leads))
        if self._leadership.leads:
            await self._wakeups.replicas("leads")
        return _HEARTBEAT_S if self._leadership.leads else _STANDBY_S

    def _start(self) -> None:
        self._stop = asyncio.Event()
        loops_of_term = self._make_loops(self._leadership.term)
        self._running = asyncio.create_task(supervision.Supervisor(loops_of_term).run(self._stop))

    async def close(self) -> None:
        """Stops the loops, then gives the lock back."""
        await self._end()
        await self._leadership.resign()

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._stop.set()
            await asyncio.gather(running, return_exceptions=True)
        for forget in self._forget:
            forget()
