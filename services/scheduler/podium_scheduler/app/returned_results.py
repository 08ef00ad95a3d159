"""Results that Redis has although they are over: it came back with an older file, or as a late replica; a scheduler
died between their release and their drop; or a stale attempt came after both.

Nobody would ever look for them, and their own expiry is weeks away. What is over never begins again, so dropping it is
safe at any time.
"""

from __future__ import annotations

from podium_runtime import logs
from podium_scheduler.app import ports

log = logs.get_logger(__name__)
_PAGE = 1_000


class ReturnedResults:
    """Finds and drops them."""

    def __init__(self, archive: ports.ArchiveLedger, results: ports.ResultBuffer) -> None:
        self._archive = archive
        self._results = results

    async def drop(self) -> int:
        """Drops the results of jobs that are over or unknown; returns of how many jobs."""
        there = await self._results.jobs_there()
        dropped = 0
        for start in range(0, len(there), _PAGE):
            over = await self._archive.over_among(there[start : start + _PAGE])
            if over:
                await self._results.drop_results(over)
                dropped += len(over)
        if dropped:
            log.warning("returned_results_dropped", jobs=dropped)
        return dropped
