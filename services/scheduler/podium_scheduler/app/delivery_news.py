"""What the ledger has just committed, carried on: wake the consumers of new deliveries, drop what was released.

Both may be lost with this process. A consumer that is not woken polls; results that are not dropped go when the rest of
their job is acknowledged, or with its retention.
"""

from __future__ import annotations

from collections.abc import Sequence

from podium_scheduler.app import loops, ports, records

_REST_S = 60.0


class DeliveryNews(loops.PatientLoop):
    """Collects the news of this replica's transactions, so that a burst of them is told once."""

    name = "delivery_news"

    def __init__(self, results: ports.ResultBuffer, wakeups: ports.Wakeups) -> None:
        super().__init__()
        self._results = results
        self._wakeups = wakeups
        self._groups: set[int] = set()
        self._released: list[records.Released] = []

    def note(self, groups: set[int], released: Sequence[records.Released]) -> None:
        """Groups that have new deliveries, and what no group waits for any more."""
        if groups or released:
            self._groups |= groups
            self._released += released
            self.wake.set()

    async def round(self) -> float:
        """Tells what has come since the last round."""
        groups, self._groups = self._groups, set()
        if groups:
            await self._wakeups.deliveries(sorted(groups))
        while self._released:
            released = self._released[0]
            if released.whole:
                await self._results.drop_results([released.job_id])
            else:
                await self._results.drop_batches(released.job_id, released.first_items)
            self._released.pop(0)
        return _REST_S
