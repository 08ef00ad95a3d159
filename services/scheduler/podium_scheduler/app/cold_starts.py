"""How long it takes until a model is loaded that nobody has loaded: what a call that finds no worker is told to wait.

Measured loads, and what pods have taken to come when there is no worker at all. Looked up now and then and not when it
is asked for: a call never waits for the ledger. Until something is known, it is assumed.
"""

from __future__ import annotations

from podium.worker.v1 import worker_pb2
from podium_scheduler.app import loops, ports

_INTERVAL_S = 10.0
_NEWEST = 50
"""Pods of the past that tell how long a pod takes."""
_ASSUMED_LOAD_S = 10.0
_ASSUMED_POD_S = 120.0
_LEAST_S = 1.0
_MOST_S = 600.0


class ColdStarts(loops.PatientLoop):
    """Keeps what the ledger knows at hand."""

    name = "cold_starts"

    def __init__(
        self, loads: ports.LoadLedger, sessions: ports.SessionLedger, pods: ports.PodLedger | None = None
    ) -> None:
        """`pods`: None when nobody rents any."""
        super().__init__()
        self._load_ledger = loads
        self._sessions = sessions
        self._pods = pods
        self._loads: dict[str, float] = {}
        self._pod_s = 0.0

    def expected_s(self, workload: str) -> float:
        """Seconds, within sane bounds."""
        return min(_MOST_S, max(_LEAST_S, self._loads.get(workload, _ASSUMED_LOAD_S) + self._pod_s))

    async def round(self) -> float:
        """Looks it up."""
        known = await self._load_ledger.loads()
        devices = await self._devices()
        spans: dict[str, list[float]] = {}
        for load in known:
            spans.setdefault(load.workload, []).append(load.mean_s)
        # By the devices that are there, the quickest of them; else by all that ever were.
        here = sorted((load for load in known if load.device_name in devices), key=lambda load: -load.mean_s)
        self._loads = {name: sum(span) / len(span) for name, span in spans.items()}
        self._loads |= {load.workload: load.mean_s for load in here}
        self._pod_s = 0.0 if devices or self._pods is None else await self._pod_start_s(self._pods)
        return _INTERVAL_S

    async def _devices(self) -> set[str]:
        """Names of those that workers have now."""
        hellos = [worker_pb2.Hello.FromString(session.hello) for session in await self._sessions.placed()]
        return {device.name for hello in hellos for device in hello.devices}

    async def _pod_start_s(self, pods: ports.PodLedger) -> float:
        taken = [
            (pod.ready_time - pod.create_time).total_seconds()
            for pod in await pods.list_pods(None, _NEWEST)
            if pod.ready_time is not None
        ]
        return sum(taken) / len(taken) if taken else _ASSUMED_POD_S
