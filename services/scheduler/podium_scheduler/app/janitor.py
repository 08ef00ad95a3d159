"""The janitor: deadlines, retention, old sessions; a bounded step a round. Runs on the leader only."""

from __future__ import annotations

from datetime import timedelta

from podium_runtime import logs
from podium_scheduler.app import loops, ports, revocation

log = logs.get_logger(__name__)

_INTERVAL_S = 1.0
_PAGE = 50
_SESSION_AGE = timedelta(hours=1)


class Janitor(loops.PatientLoop):
    """Expires and removes."""

    name = "janitor"

    def __init__(
        self,
        jobs: ports.JobLedger,
        sessions: ports.SessionLedger,
        results: ports.ResultBuffer,
        revoke: revocation.Revocation,
        retention: timedelta,
    ) -> None:
        super().__init__()
        self._jobs = jobs
        self._sessions = sessions
        self._results = results
        self._revoke = revoke
        self._retention = retention

    async def round(self) -> float:
        """One bounded step of each kind."""
        ended = await self._jobs.expire_due(self._retention, _PAGE)
        for one in ended:
            log.info("job_expired", job_id=str(one.job.job_id))
            await self._revoke.spread(one, "deadline")
        gone = await self._jobs.delete_expired(_PAGE)
        if gone:
            await self._results.drop_results(gone)
            log.info("jobs_removed", jobs=len(gone))
        await self._sessions.delete_ended(_SESSION_AGE, _PAGE)
        return 0.0 if len(ended) == _PAGE or len(gone) == _PAGE else _INTERVAL_S
