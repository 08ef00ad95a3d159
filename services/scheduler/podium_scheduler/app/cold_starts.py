"""How long it takes until a model is loaded that nobody has loaded: what a call that finds no worker is told to wait.

A load is begun for the first call that asks for it, so every call is told what is left of it: of measured loads, and of
what pods have taken to come when no worker can serve it. Looked up now and then and not when it is asked for: a call
never waits for the ledger. Until something is known, it is assumed. Clock: monotonic, injected; who asked first is this
replica's memory, and a gateway that finds no worker asks all replicas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock
from podium_scheduler.app import fits, loops, ports

_INTERVAL_S = 10.0
_NEWEST = 50
"""Pods of the past that tell how long a pod takes."""
_ASSUMED_LOAD_S = 10.0
_ASSUMED_POD_S = 120.0
_LEAST_S = 1.0
_MOST_S = 600.0
_GIVEN_UP_AFTER = 2
"""Times what was expected: a load that has not ended by then has failed, or its model was loaded and is gone again."""


class ColdStarts(loops.PatientLoop):
    """Keeps what the ledger knows at hand."""

    name = "cold_starts"

    def __init__(
        self,
        workloads: Mapping[str, workload_pb2.Workload],
        loads: ports.MeasuredLoads,
        sessions: ports.PlacedSessions,
        time: clock.Clock,
        pods: ports.PastPods | None = None,
    ) -> None:
        """`pods`: None when nobody rents any."""
        super().__init__()
        self._load_ledger = loads
        self._sessions = sessions
        self._clock = time
        self._pods = pods
        self._workloads = workloads
        self._fits = fits.Fits(workloads)
        self._loads: dict[str, float] = {}
        self._pod_s: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def left_s(self, workload: str) -> float:
        """A call asks for a model that nobody has loaded: seconds until it is expected, within sane bounds."""
        now, whole_s = self._clock.monotonic(), self._whole_s(workload)
        took_s = now - self._began.setdefault(workload, now)
        if took_s >= _GIVEN_UP_AFTER * whole_s:
            self._began[workload], took_s = now, 0.0
        return max(_LEAST_S, whole_s - took_s)

    def loaded(self, workload: str) -> None:
        """A worker has answered: who finds nobody from now on waits for another load."""
        self._began.pop(workload, None)

    async def round(self) -> float:
        """Looks it up."""
        known = await self._load_ledger.loads()
        devices = await self._devices()
        spans: dict[str, list[float]] = {}
        for load in known:
            spans.setdefault(load.workload, []).append(load.mean_s)
        # By the devices that can load it now, the quickest of them; else by all that ever did.
        here = sorted(
            (load for load in known if load.device_name in devices.get(load.workload, ())),
            key=lambda load: -load.mean_s,
        )
        self._loads = {name: sum(span) / len(span) for name, span in spans.items()}
        self._loads |= {load.workload: load.mean_s for load in here}
        nowhere = self._workloads.keys() - devices.keys()
        pod_s = await self._pod_start_s(self._pods) if nowhere and self._pods is not None else 0.0
        self._pod_s = dict.fromkeys(nowhere, pod_s)
        return _INTERVAL_S

    def _whole_s(self, workload: str) -> float:
        return min(_MOST_S, max(_LEAST_S, self._loads.get(workload, _ASSUMED_LOAD_S) + self._pod_s.get(workload, 0.0)))

    async def _devices(self) -> dict[str, set[str]]:
        """Names of the devices that workers have for each workload now, as the placer sees it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for session in await self._sessions.placed():
            status = worker_pb2.Status.FromString(session.status)
            if session.drain or session.quarantine_reason or status.draining:
                continue
            hello = worker_pb2.Hello.FromString(session.hello)
            faulted = {one.index for one in status.devices if one.state == worker_pb2.DEVICE_STATE_FAULTED}
            failed = {one.workload for one in status.workloads if one.unavailable_reason}
            for device in fits.devices(hello):
                if device.index not in faulted:
                    for name in self._fits.of(hello, device) - failed:
                        found[name].add(device.name)
        return found

    async def _pod_start_s(self, pods: ports.PastPods) -> float:
        taken = [
            (pod.ready_time - pod.create_time).total_seconds()
            for pod in await pods.list_pods(None, _NEWEST)
            if pod.ready_time is not None
        ]
        return sum(taken) / len(taken) if taken else _ASSUMED_POD_S
