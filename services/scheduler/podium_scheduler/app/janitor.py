"""The janitor: deadlines, retention, old sessions; a bounded step a round. Runs on the leader only.

What is over goes in three steps, each of them bounded and safe to repeat, so that a janitor may be killed anywhere:
the results leave Redis, the batches leave the hot table, and when its own retention has passed the job goes too. A job
with 50,000 batches takes many rounds; between any two of them the ledger is whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter

from podium_runtime import logs
from podium_scheduler.app import loops, ports, revocation

log = logs.get_logger(__name__)

_INTERVAL_S = 10.0
"""The lookout wakes it for deadlines and for what is to be archived; the rest only has to go some day."""
_BREATH_S = 0.02
"""Between two steps while there is more to do: the ledger has others to serve."""
_PAGE = 50
_MAX_BATCHES = 1_000
_MAX_PAYLOAD_BYTES = 32 << 20
_MAX_FAILURES = 1_000
_SESSION_AGE = timedelta(hours=1)
_MAX_ITEMS = 5_000
BATCHES = Counter("podium_janitor_archived_batches_total", "Batches that left the hot table.")
ARCHIVED = Counter("podium_janitor_archived_jobs_total", "Jobs all of whose batches have left the hot table.")
REMOVED = Counter("podium_janitor_removed_jobs_total", "Jobs removed because their retention had passed.")


@dataclass(frozen=True, slots=True)
class Retention:
    """From a job's end: how long its unread results are kept, and how long its record."""

    results: timedelta
    jobs: timedelta


class Janitor(loops.PatientLoop):
    """Expires, archives and removes."""

    name = "janitor"

    def __init__(
        self,
        jobs: ports.JobLedger,
        archive: ports.ArchiveLedger,
        sessions: ports.SessionLedger,
        results: ports.ResultBuffer,
        revoke: revocation.Revocation,
        retention: Retention,
        items: ports.KnownItemsLedger | None = None,
    ) -> None:
        super().__init__()
        self._jobs = jobs
        self._archive = archive
        self._sessions = sessions
        self._results = results
        self._revoke = revoke
        self._retention = retention
        self._items = items

    async def round(self) -> float:
        """One bounded step of each kind."""
        more = [await self._expire(), await self._archive_next(), await self._remove(), await self._forget()]
        await self._sessions.delete_ended(_SESSION_AGE, _PAGE)
        return _BREATH_S if any(more) else _INTERVAL_S

    async def _expire(self) -> bool:
        """Jobs whose deadline has passed; whether there may be more of them."""
        ended = await self._jobs.expire_due(self._retention.results, max_jobs=_PAGE, max_batches=_MAX_BATCHES)
        for one in ended:
            log.info("job_expired", job_id=str(one.job.job_id))
            await self._revoke.spread(one, "deadline")
        return len(ended) > 0

    async def _archive_next(self) -> bool:
        """The next batches that serve nobody any more; whether there may be more of them."""
        due = await self._archive.due(_PAGE)
        if not due:
            return False
        # First what Redis still has of them: once the batches are gone nobody would look for it again.
        await self._results.drop_results(due)
        step = await self._archive.archive(due, max_batches=_MAX_BATCHES, max_payload_bytes=_MAX_PAYLOAD_BYTES)
        BATCHES.inc(step.batches)
        ARCHIVED.inc(len(step.jobs))
        log.debug("jobs_archived", jobs=len(step.jobs), batches=step.batches)
        return step.batches > 0 or len(step.jobs) > 0

    async def _remove(self) -> bool:
        """Jobs whose retention has passed; whether there may be more of them."""
        gone = await self._archive.remove(self._retention.jobs, max_jobs=_PAGE, max_failures=_MAX_FAILURES)
        if gone:
            REMOVED.inc(len(gone))
            log.info("jobs_removed", jobs=len(gone))
        return len(gone) > 0

    async def _forget(self) -> bool:
        """Vectors that were remembered for long enough; whether there may be more of them."""
        return self._items is not None and await self._items.forget(_MAX_ITEMS) == _MAX_ITEMS
