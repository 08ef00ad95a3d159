"""How a worker ends: nothing new, finish what is in hand within a grace, hand back the rest, say Goodbye.

Promises: over within the grace, of which the last part is kept for the Goodbye; whoever asks a second time is not kept
waiting: everything unfinished is handed back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from podium_runtime import logs
from podium_worker.app.worker import Worker

log = logs.get_logger(__name__)

_GOODBYE_S = 2.0
_GOODBYE_SHARE = 0.25


class Leaver(Protocol):
    """The session, as the drain needs it."""

    async def leave(self, reason: str, timeout_s: float) -> None:
        """Says Goodbye and ends the session, waiting for the scheduler at most this long."""


async def drain(worker: Worker, session: Leaver, reason: str, grace_s: float, hurry: asyncio.Event) -> None:
    """Returns when the worker has left. Batches that are not acknowledged within `grace_s` seconds are given back."""
    log.info("drain_began", reason=reason, batches=len(worker.in_hand()), grace_s=grace_s)
    goodbye_s = min(_GOODBYE_S, grace_s * _GOODBYE_SHARE)
    worker.begin_drain()
    waits = {asyncio.create_task(_emptied(worker)), asyncio.create_task(hurry.wait())}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s - goodbye_s):
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if not worker.emptied.is_set():
        log.warning("drain_hands_back", batches=len(worker.in_hand()), hurried=hurry.is_set())
        worker.end_drain()
    await session.leave(reason, goodbye_s)
    log.info("drained")


async def _emptied(worker: Worker) -> None:
    await worker.emptied.wait()
    await worker.calls.emptied.wait()
