"""One service of the cluster, started again whenever it has ended, as the supervisor of a real cluster would.

A process that ends uncalled, ready or not, or that ends badly after SIGTERM, is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping

import psutil

from tests.support import stack

_RESTART_PAUSE_S = 0.5
_TERMINATION_S = 60.0


class Member:
    """A service under supervision. `name` is its place in the plan (`worker1`), the same over all its lives."""

    def __init__(self, name: str, running: stack.Stack, settings: Mapping[str, str]) -> None:
        self.name = name
        self.kind = name.rstrip("0123456789")
        self.service: stack.Service | None = None
        self.lives: list[stack.Service] = []
        self.findings: list[str] = []
        self._stack = running
        self._settings = dict(settings)
        self._begun = asyncio.Event()
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._called: set[int] = set()

    @property
    def ready(self) -> bool:
        """Whether the life of now has reported ready and goes on."""
        service = self.service
        return service is not None and service.process.returncode is None and service.ready_file.exists()

    @property
    def pid(self) -> int | None:
        """The process of now, ready or not."""
        service = self.service
        return service.process.pid if service is not None and service.process.returncode is None else None

    async def first_ready(self) -> None:
        """Waits until its first life is ready. AssertionError when that ends before."""
        await self._begun.wait()
        await self.lives[0].become_ready()

    async def run(self) -> None:
        """Keeps it alive until cancelled."""
        while True:
            await self._may_run.wait()
            self.service = service = await self._stack.spawn(self.kind, **self._settings)
            self.lives.append(service)
            self._begun.set()
            status = await service.process.wait()
            if service.process.pid not in self._called:
                self.findings.append(f"{self.name} ended by itself with status {status}: {service.log}")
                await asyncio.sleep(_RESTART_PAUSE_S)

    async def kill(self) -> None:
        """SIGKILL; it stays away until `restart`."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> None:
        """SIGTERM, by which a ready process must end in time and well; it stays away until `restart`."""
        was_ready = self.ready
        service = await self._end(signal.SIGTERM)
        if service is not None and was_ready and service.process.returncode != 0:
            self.findings.append(
                f"{self.name} ended with status {service.process.returncode} after SIGTERM: {service.log}"
            )

    async def _end(self, number: signal.Signals) -> stack.Service | None:
        self._may_run.clear()
        service = self.service
        if service is None or service.process.returncode is not None:
            return None
        self._called.add(service.process.pid)
        self.signal(number)
        try:
            async with asyncio.timeout(_TERMINATION_S):
                await service.process.wait()
        except TimeoutError:
            self.findings.append(f"{self.name} did not end {_TERMINATION_S:.0f} s after {number.name}: {service.log}")
            service.process.kill()
            await service.process.wait()
        return service

    def restart(self) -> None:
        """Lets it run again."""
        self._may_run.set()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process of now, if there is one."""
        if self.pid is not None and self.service is not None:
            with contextlib.suppress(ProcessLookupError):
                self.service.process.send_signal(number)

    def executors(self) -> list[psutil.Process]:
        """The worker's children."""
        try:
            return psutil.Process(self.pid).children() if self.pid is not None else []
        except psutil.NoSuchProcess:
            return []
