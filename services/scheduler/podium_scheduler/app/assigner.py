"""Hands batches whose leases are written to their sessions, each with what is known of its items already."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from podium_runtime import logs
from podium_scheduler.app import attempt_plans, deduplication, records, worker_sessions

log = logs.get_logger(__name__)


class Assigner:
    """Of one replica."""

    def __init__(
        self, registry: worker_sessions.SessionRegistry, dedupe: deduplication.Deduplication | None = None
    ) -> None:
        self._registry = registry
        self._dedupe = dedupe

    async def assign(self, leased: Sequence[records.Leased]) -> None:
        """Those whose items nobody is to recognise at once, the others when they have been looked at."""
        for batch in leased:
            if batch.dedupe_scope is None:
                self._hand(batch, None)
        others = [batch for batch in leased if batch.dedupe_scope is not None]
        if others:
            await asyncio.gather(*(self._plan(batch) for batch in others))

    async def _plan(self, batch: records.Leased) -> None:
        self._hand(batch, await self._dedupe.plan(batch) if self._dedupe else None)

    def _hand(self, batch: records.Leased, plan: attempt_plans.Plan | None) -> None:
        if not self._registry.assign(batch, plan):
            # The session ended meanwhile; the rescuer finds the lease through it.
            log.info("session_gone_before_assignment", batch_id=batch.batch_id)
