"""Health that tells the truth: SERVING only while the ledger and the buffer answer."""

from __future__ import annotations

import asyncio
from typing import Protocol

from podium_runtime import errors, grpc_server, logs

log = logs.get_logger(__name__)
_INTERVAL_S = 1.0


class Dependency(Protocol):
    """Something that must answer."""

    async def ping(self) -> None:
        """Raises errors.Unavailable."""


class Readiness:
    """A loop that sets the server's health."""

    name = "readiness"

    def __init__(self, server: grpc_server.Server, dependencies: list[Dependency]) -> None:
        self.wake = asyncio.Event()
        self._server = server
        self._dependencies = dependencies
        self._ready: bool | None = None

    async def run_once(self) -> float:
        """Asks each dependency."""
        try:
            for dependency in self._dependencies:
                await dependency.ping()
            ready = True
        except errors.PodiumError as error:
            log.warning("not_ready", reason=error.reason)
            ready = False
        if ready is not self._ready:
            self._ready = ready
            await self._server.set_serving(ready)
        return _INTERVAL_S
