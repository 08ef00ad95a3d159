"""How long models take to load, as the workers' Status frames tell it: noted here, written to the ledger now and then.

A load is told in every Status as long as the model stays: it counts when it is new in its worker's list, or when its
time has changed. Each replica notes its own workers'. Nothing waits for the ledger, and what is noted while it is away
is kept within bounds: a load that is lost, or counted twice because its worker came over from another replica, does no
harm to a mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from uuid import UUID

from podium.worker.v1 import worker_pb2
from podium_scheduler.app import loops, pod_uses, ports, records, worker_sessions

_INTERVAL_S = 2.0
_MAX_NOTED = 1_000
_MAX_WORKERS = 10_000
# Beyond any load, and within what the ledger can hold.
_MAX_LOAD_S = 7 * 86_400.0
_MAX_MEMORY = (1 << 63) - 1
_MAX_NAME = 200

_Told = dict[tuple[int, str], float]
"""Seconds of each load, by device index and workload."""


class ModelLoads(loops.PatientLoop):
    """Notes loads and writes them."""

    name = "model_loads"

    def __init__(self, ledger: ports.LoadLedger, known: Collection[str], uses: pod_uses.PodUses | None = None) -> None:
        super().__init__()
        self._ledger = ledger
        self._uses = uses
        self._known = frozenset(known)
        self._told: dict[UUID, _Told] = {}
        self._noted: list[records.ModelLoad] = []

    def note(self, session: worker_sessions.Session) -> None:
        """Notes what is new in a session's last Status."""
        names = {device.index: device.name for device in session.hello.devices}
        # Over a worker's sessions, which may be many; the one that was heard of last is the last to be forgotten.
        before, now = self._told.pop(session.worker_id, {}), _Told()
        for device in session.status.devices:
            for model in device.models:
                load = self._load(names.get(device.index, ""), model)
                if load is None:
                    continue
                now[device.index, model.workload] = load.seconds
                is_new = before.get((device.index, model.workload)) != load.seconds
                if is_new and len(self._noted) < _MAX_NOTED:
                    self._noted.append(load)
                if is_new and self._uses is not None:
                    self._uses.note(session, load.workload, load.seconds)
        if now:
            self._told[session.worker_id] = now
        while len(self._told) > _MAX_WORKERS:
            del self._told[next(iter(self._told))]

    def _load(self, device_name: str, model: worker_pb2.ResidentModel) -> records.ModelLoad | None:
        """What a worker says of a load, as far as it can be: it comes from outside."""
        seconds = model.load_duration.seconds + model.load_duration.nanos / 1e9
        if model.workload not in self._known or not device_name or not model.HasField("load_duration"):
            return None
        if not (math.isfinite(seconds) and 0 <= seconds <= _MAX_LOAD_S):
            return None
        name = device_name.replace("\x00", "")[:_MAX_NAME]
        return records.ModelLoad(model.workload, name, seconds, min(model.memory_bytes, _MAX_MEMORY))

    async def round(self) -> float:
        """Writes what was noted."""
        loads = list(self._noted)
        if loads:
            await self._ledger.record(loads)
            # Only now: while the ledger is away they stay.
            del self._noted[: len(loads)]
        return _INTERVAL_S
