"""The registry as the gateway knows it: the scheduler's, refreshed now and then and when a job names a
stranger."""

from __future__ import annotations

import hashlib

from podium.common.v1 import workload_pb2
from podium_gateway.app import ports
from podium_gateway.domain import workloads
from podium_runtime import clock

_MODALITIES = {
    workload_pb2.MODALITY_TEXT: workloads.Modality.TEXT,
    workload_pb2.MODALITY_IMAGE: workloads.Modality.IMAGE,
    workload_pb2.MODALITY_TASK: workloads.Modality.TASK,
}
# A client that keeps naming an unknown workload must not turn each call into two.
_REFRESH_INTERVAL_S = 1.0


class Registry:
    """Workloads by name. Empty until the first refresh."""

    def __init__(self, ledger: ports.Ledger, time: clock.Clock) -> None:
        self._ledger = ledger
        self._clock = time
        self._messages: dict[str, workload_pb2.Workload] = {}
        self._rules: dict[str, workloads.WorkloadRules] = {}
        self._fingerprints: dict[str, bytes] = {}
        self._refreshed_at: float | None = None

    async def refresh(self) -> None:
        """Asks the scheduler. Raises errors.Unavailable; what was known stays."""
        listed = await self._ledger.list_workloads()
        self._messages = {w.name: w for w in sorted(listed, key=lambda w: w.name)}
        self._rules = {w.name: rules_of(w) for w in listed}
        self._fingerprints = {}
        self._refreshed_at = self._clock.monotonic()

    async def find(self, name: str) -> workloads.WorkloadRules | None:
        """The rules of a workload; None when the scheduler does not know it either. Raises
        errors.Unavailable."""
        if name not in self._rules and self._is_stale():
            await self.refresh()
        return self._rules.get(name)

    async def all(self) -> dict[str, workload_pb2.Workload]:
        """All workloads by name, in order. Raises errors.Unavailable before the first refresh."""
        if self._refreshed_at is None:
            await self.refresh()
        return self._messages

    def fingerprint(self, name: str) -> bytes:
        """Of the whole entry of a workload that was found: another model, revision or prefix has another one."""
        if name not in self._fingerprints:
            entry = self._messages[name].SerializeToString(deterministic=True)
            self._fingerprints[name] = hashlib.sha256(entry).digest()
        return self._fingerprints[name]

    def model(self, name: str) -> tuple[str, str]:
        """Name and revision of the model of a workload that was found."""
        model = self._messages[name].model
        return model.model_name, model.revision

    def _is_stale(self) -> bool:
        at = self._refreshed_at
        return at is None or self._clock.monotonic() - at >= _REFRESH_INTERVAL_S


def rules_of(workload: workload_pb2.Workload) -> workloads.WorkloadRules:
    """What the checks and the cutting need of a registry entry."""
    prefixes = workload.prefixes
    return workloads.WorkloadRules(
        name=workload.name,
        modalities=frozenset(_MODALITIES[m] for m in workload.modalities if m in _MODALITIES),
        dimension=workload.dimension,
        has_prefixes=bool(prefixes.query or prefixes.passage),
        max_text_bytes=workload.limits.max_text_bytes,
        max_image_bytes=workload.limits.max_image_bytes,
        max_task_bytes=workload.limits.max_task_bytes,
        max_batch_items=workload.batch.max_items,
        max_batch_bytes=workload.batch.max_bytes,
        # An older scheduler names none: float32 is what every worker makes.
        dtypes=frozenset(workload.dtypes) | {workload_pb2.DTYPE_FLOAT32},
        truncated_dimensions=tuple(workload.truncated_dimensions),
        accepts_token_ids=workload.accepts_token_ids,
    )
