"""The base of the scheduler's loops: a name, a wake-up, and patience while Postgres or Redis are away."""

from __future__ import annotations

import abc
import asyncio

from podium_runtime import errors, logs

log = logs.get_logger(__name__)
_PATIENCE_S = 0.5


class PatientLoop(abc.ABC):
    """A loop that waits out the absence of the ledger or the buffer; any other error ends the process."""

    name = "loop"

    def __init__(self, wake: asyncio.Event | None = None) -> None:
        self.wake = wake or asyncio.Event()

    async def run_once(self) -> float:
        """One round; returns the seconds to rest."""
        try:
            return await self.round()
        except (errors.Unavailable, errors.ResourceExhausted) as error:
            log.warning("loop_waits", loop=self.name, reason=error.reason)
            return _PATIENCE_S

    @abc.abstractmethod
    async def round(self) -> float:
        """What the loop does; returns the seconds to rest."""
