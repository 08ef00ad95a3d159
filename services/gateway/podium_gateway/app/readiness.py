"""Whether this gateway can serve: the scheduler answers and Redis answers. Also keeps the registry fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from podium_gateway.app import ports, workloads
from podium_runtime import errors, logs

log = logs.get_logger(__name__)

_REST_S = 2.0
_REST_WHILE_DOWN_S = 0.25


class Readiness:
    """A loop that looks every two seconds, and four times a second while something is away."""

    name = "readiness"

    def __init__(
        self,
        registry: workloads.Registry,
        results: ports.ResultStore,
        set_serving: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.wake = asyncio.Event()
        self.ready = asyncio.Event()
        """Set while serving."""
        self._registry = registry
        self._results = results
        self._set_serving = set_serving
        self._told: str | None = None

    async def run_once(self) -> float:
        """One look; returns the seconds to the next."""
        missing = await self._missing()
        if missing != self._told:
            await self._tell(missing)
        return _REST_WHILE_DOWN_S if missing else _REST_S

    async def _missing(self) -> str:
        try:
            await self._registry.refresh()
            await self._results.ping()
        except errors.PodiumError as error:
            return error.message
        return ""

    async def _tell(self, missing: str) -> None:
        self._told = missing
        if missing:
            log.warning("not_serving", why=missing)
            self.ready.clear()
        else:
            log.info("serving")
            self.ready.set()
        await self._set_serving(not missing)
