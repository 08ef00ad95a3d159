"""Which workloads wait for their results to be read, as the autoscaler is to see it. Runs on the leader only.

It costs nothing while Redis is far from full, and asks the ledger for what is in flight when it is not. How full Redis
is, is this replica's gauge: up to a second old, and what it last was while Redis is away. That a workload had no room a
moment ago is this process' memory; a new leader begins with what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from podium_scheduler.app import ports
from podium_scheduler.domain import room


class Gauge(Protocol):
    """How full Redis was at the last look; see app.pressure."""

    @property
    def memory(self) -> room.Memory: ...


class TightRoom:
    """Looks once a decision."""

    def __init__(self, gauge: Gauge, holdings: ports.HoldingsLedger, sizes: Mapping[str, room.Sizes]) -> None:
        self._gauge = gauge
        self._holdings = holdings
        self._sizes = sizes
        self._before: Mapping[str, room.Tight] = {}

    async def look(self) -> Mapping[str, room.Tight]:
        """By workload; those that have room are not named."""
        memory = self._gauge.memory
        in_flight = await self._holdings.in_flight() if memory.crowded else {}
        left = room.Room(memory, room.total(in_flight, self._sizes))
        self._before = room.tight(left, self._sizes, self._before)
        return self._before
