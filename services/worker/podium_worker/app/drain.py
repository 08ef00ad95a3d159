"""How a worker ends: nothing new, finish what is in hand within a grace, hand back the rest, say Goodbye."""

from __future__ import annotations

import asyncio
from typing import Protocol

from podium_runtime import logs
from podium_worker.app.worker import Worker

log = logs.get_logger(__name__)


class Leaver(Protocol):
    """The session, as the drain needs it."""

    async def leave(self, reason: str) -> None:
        """Says Goodbye and ends the session."""


async def drain(worker: Worker, session: Leaver, reason: str, grace_s: float) -> None:
    """Returns when the worker has left. Batches that are not acknowledged within `grace_s` seconds are given back."""
    log.info("drain_began", reason=reason, batches=len(worker.in_hand()), grace_s=grace_s)
    worker.begin_drain()
    try:
        async with asyncio.timeout(grace_s):
            await worker.emptied.wait()
    except TimeoutError:
        log.warning("drain_grace_over", batches=len(worker.in_hand()))
        worker.end_drain()
    await session.leave(reason)
    log.info("drained")
