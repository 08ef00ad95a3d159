"""The lookout: asks the ledger whether anything is due, and wakes whose business it is. Runs on the leader only.

One statement in place of one of each loop. The loops look by themselves too, seldom, for what nobody waits for: it only
has to go some day.
"""

from __future__ import annotations

import asyncio

from podium_scheduler.app import loops, ports

_INTERVAL_S = 0.25
"""A part of the time from a worker's death to its batches running elsewhere."""
_CALM_EVERY = 4
"""Looks. Jobs that are over and consumers may wait for a second, so that many of them share a round."""


class Lookout(loops.PatientLoop):
    """Looks and wakes."""

    name = "lookout"

    def __init__(
        self,
        ledger: ports.DueLedger,
        *,
        feeder: asyncio.Event,
        rescuer: asyncio.Event,
        janitor: asyncio.Event,
        consumer_keeper: asyncio.Event,
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._feeder = feeder
        self._rescuer = rescuer
        self._janitor = janitor
        self._consumer_keeper = consumer_keeper
        self._looks = 0

    async def round(self) -> float:
        """One look."""
        due = await self._ledger.due()
        if due.waiting:
            self._feeder.set()
        if due.lost_leases:
            self._rescuer.set()
        self._looks += 1
        if self._looks % _CALM_EVERY == 0:
            if due.over_jobs:
                self._janitor.set()
            if due.consumers:
                self._consumer_keeper.set()
        return _INTERVAL_S
