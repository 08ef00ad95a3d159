"""Gives up what no worker can serve. Runs on the leader only.

A workload whose model some worker failed to load, and which no worker offers credit for, would wait for ever while its
client sees nothing. When that has held for a while by this process' clock, the batches that wait for it fail with the
worker's own words. As long as any worker can serve it, they wait.
"""

from __future__ import annotations

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, logs
from podium_scheduler.app import loops, ports

log = logs.get_logger(__name__)

_INTERVAL_S = 1.0
_BREATH_S = 0.02
"""Between two steps while there is more to do: the ledger has others to serve."""
_MAX_JOBS = 20
_MAX_BATCHES = 1_000


class Unservable(loops.PatientLoop):
    """Watches workloads that wait although nobody can serve them."""

    name = "unservable"

    def __init__(
        self,
        batches: ports.BatchLedger,
        sessions: ports.SessionLedger,
        wakeups: ports.Wakeups,
        time: clock.Clock,
        patience_s: float,
    ) -> None:
        super().__init__()
        self._batches = batches
        self._sessions = sessions
        self._wakeups = wakeups
        self._clock = time
        self._patience_s = patience_s
        self._since: dict[str, float] = {}

    async def round(self) -> float:
        """Fails what has been unservable for longer than the patience, a bounded step of each workload."""
        reasons = await self._reasons()
        now = self._clock.monotonic()
        self._since = {workload: self._since.get(workload, now) for workload in reasons}
        more = False
        for workload, since in self._since.items():
            if now - since >= self._patience_s:
                changed = await self._batches.give_up_waiting(
                    workload, reasons[workload], max_jobs=_MAX_JOBS, max_batches=_MAX_BATCHES
                )
                if changed:
                    more = True
                    log.warning("unservable_given_up", workload=workload, jobs=len(changed), reason=reasons[workload])
                    await self._wakeups.job_changed([(job_id, "state") for job_id in changed])
        return _BREATH_S if more else _INTERVAL_S

    async def _reasons(self) -> dict[str, str]:
        """Workloads that a worker cannot load and none offers, with that worker's words."""
        offered = await self._sessions.credits()
        reasons: dict[str, str] = {}
        for status in await self._sessions.statuses():
            for workload in worker_pb2.Status.FromString(status).workloads:
                if workload.unavailable_reason and not offered.get(workload.workload):
                    reasons[workload.workload] = workload.unavailable_reason
        return reasons
