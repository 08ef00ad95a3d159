"""Gives up what no worker can serve. Runs on the leader only.

A workload whose model some worker failed to load, and which no worker can serve, would wait for ever while its client
sees nothing. When that has held for a while by this process' clock, the batches that wait for it fail with the worker's
own words. As long as any worker can serve it, they wait, be it for their turn: a worker offers no credit for a model
while others with work have its place.

Where pods are rented, they also wait as long as one may come that can serve it (app.outlook), and why they wait is kept
for operators who ask; what pods could not load, several times, is given up even when the last of them has gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, logs
from podium_scheduler.app import loops, outlook, ports, records

log = logs.get_logger(__name__)

_INTERVAL_S = 2.0
_BREATH_S = 0.02
"""Between two steps while there is more to do: the ledger has others to serve."""
_MAX_JOBS = 20
_MAX_BATCHES = 1_000
_SAID_EVERY_S = 60.0
"""Why something waits is written so often at most."""


class Unservable(loops.PatientLoop):
    """Watches workloads that wait although nobody can serve them."""

    name = "unservable"

    def __init__(
        self,
        batches: ports.BatchLedger,
        sessions: ports.SessionLedger,
        scaling: ports.ScalingLedger,
        wakeups: ports.Wakeups,
        time: clock.Clock,
        patience_s: float,
        pods: outlook.Outlook | None = None,
    ) -> None:
        """`pods`: what pods may come; None: none are rented."""
        super().__init__()
        self._batches = batches
        self._sessions = sessions
        self._scaling = scaling
        self._wakeups = wakeups
        self._clock = time
        self._patience_s = patience_s
        self._pods = pods
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}

    async def round(self) -> float:
        """Fails what has been unservable for longer than the patience, a bounded step of each workload."""
        reasons = await self._reasons()
        hopes = self._hopes(reasons)
        now = self._clock.monotonic()
        self._since = {workload: self._since.get(workload, now) for workload in reasons if workload not in hopes}
        await self._say({workload: f"{hope}: {reasons[workload]}" for workload, hope in hopes.items()}, now)
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
        """Workloads that no worker can serve, and one, or the pods for it, could not load, with that worker's words."""
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
        if self._pods is not None:
            reasons |= self._pods.hopeless()
        return {name: reason for name, reason in reasons.items() if name not in servable}

    def _hopes(self, workloads: Iterable[str]) -> dict[str, str]:
        """Those that a pod may come for, and which."""
        if self._pods is None:
            return {}
        hopes = {workload: self._pods.hope(workload) for workload in workloads}
        return {workload: hope for workload, hope in hopes.items() if hope}

    async def _say(self, hopes: Mapping[str, str], now: float) -> None:
        """Keeps why work waits that no worker can serve, for operators who ask."""
        self._said = {workload: at for workload, at in self._said.items() if now - at < _SAID_EVERY_S}
        new = [w for w in hopes if w not in self._said and self._pods is not None and self._pods.has_work(w)]
        if new:
            await self._scaling.decide(
                [records.Decision(w, "Wait", f"no worker can serve it, but {hopes[w]}") for w in new]
            )
            self._said |= dict.fromkeys(new, now)


def _works(status: worker_pb2.Status) -> bool:
    """Whether a worker takes batches of anything, by its own word."""
    faulted = [device.state == worker_pb2.DEVICE_STATE_FAULTED for device in status.devices]
    return not status.draining and not (faulted and all(faulted))
