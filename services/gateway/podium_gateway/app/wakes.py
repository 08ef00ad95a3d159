"""Wake-ups for one waiter: flags that stay up until the waiter takes them down, so that none is lost between
a look and a wait."""

from __future__ import annotations

import asyncio

RESULTS = "results"
"""There are results to read; the ledger may not have heard of them yet."""
STATE = "state"
PROGRESS = "progress"
"""The ledger has counted results."""
DELIVERIES = "deliveries"


class Wakes:
    """What happened since the waiter last looked. One waiter; any number of notifiers on the same loop."""

    def __init__(self) -> None:
        self._pending: set[str] = set()
        self._news = asyncio.Event()

    def notify(self, *kinds: str) -> None:
        """Puts flags up."""
        self._pending.update(kinds)
        self._news.set()

    def pending(self, kind: str) -> bool:
        """Whether a flag is up."""
        return kind in self._pending

    def clear(self, *kinds: str) -> None:
        """Takes flags down; to be done before the look that they would have asked for."""
        self._pending.difference_update(kinds)

    async def wait(self, timeout_s: float, *kinds: str) -> None:
        """Returns when one of these flags is up, or after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._pending.intersection(kinds):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return
