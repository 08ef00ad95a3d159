"""Gives up what no worker can serve. Runs on the leader only.

A workload whose model some worker failed to load, and which no worker can serve, would wait for ever while its client
sees nothing. When that has held for a while by this process' clock, the batches that wait for it fail with the worker's
own words. As long as any worker can serve it, they wait, be it for their turn: a worker offers no credit for a model
while others with work have its place.
"""

from __future__ import annotations

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, logs
from podium_scheduler.app import loops, ports

log = logs.get_logger(__name__)

_INTERVAL_S = 2.0
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
        """Workloads that a worker cannot load and none can serve, with that worker's words."""
        reasons: dict[str, str] = {}
        servable: set[str] = set()
        for session in await self._sessions.placed():
            status = worker_pb2.Status.FromString(session.status)
            takes = _works(status) and not (session.drain or session.quarantine_reason)
            for workload in status.workloads:
                if workload.unavailable_reason:
                    reasons[workload.workload] = workload.unavailable_reason
                elif takes:
                    servable.add(workload.workload)
        return {name: reason for name, reason in reasons.items() if name not in servable}


def _works(status: worker_pb2.Status) -> bool:
    """Whether a worker takes batches of anything, by its own word."""
    faulted = [device.state == worker_pb2.DEVICE_STATE_FAULTED for device in status.devices]
    return not status.draining and not (faulted and all(faulted))
