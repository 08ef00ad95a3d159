"""Moves pods on to READY when their workers are fit for work. Runs on the leader only.

A worker is fit when it has a model loaded, for every load ends with its canary. One that comes up without the GPUs that
were rented, with less memory or compute capability, or without what its workload needs (its driver may be too old) is
given back at once: it would bill, and never be what it was rented for. So is one whose worker says that it cannot load
what it was rented for, before another model has made it READY: another machine may. Clock: the ledger's.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from prometheus_client import Histogram

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import logs
from podium_scheduler.app import fleet_facts, loops, ports
from podium_scheduler.domain import pods, versions

log = logs.get_logger(__name__)
_STAGES = ("create", "call", "listed", "registered", "ready")
START = Histogram(
    "podium_pod_start_seconds",
    "How long pods that became READY took for each stage: to be called for, listed, registered and ready; and for all.",
    ["provider", "stage"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 900, 1800, 3600),
)
_INTERVAL_S = 1.0
_NONE_STARTING_S = 3.0
_MEMORY_SHARE = 0.85
"""Of the memory that an offer names, what a GPU must show: of nominal 24 GB, an L4 with ECC shows 22.5 GiB."""


class PodReadiness(loops.PatientLoop):
    """Looks at the pods that start."""

    name = "pod_readiness"

    def __init__(
        self,
        ledger: ports.PodLedger,
        sessions: ports.PlacedSessions,
        workloads: Mapping[str, workload_pb2.Workload] | None = None,
    ) -> None:
        """`workloads`: what pods were rented for, and what that needs."""
        super().__init__()
        self._workloads = workloads or {}
        self._ledger = ledger
        self._sessions = sessions

    async def round(self) -> float:
        """One look."""
        starting = await self._ledger.starting()
        registered = [pod for pod in starting if pod.worker_id is not None]
        if registered:
            workers = await fleet_facts.workers_of(self._sessions)
            moves = [self._verdict(pod, workers.get(pod.worker_id)) for pod in registered]
            moved = await self._move([move for move in moves if move is not None])
            for pod_id in moved:
                await self._measure(pod_id)
        return _INTERVAL_S if starting else _NONE_STARTING_S

    async def _move(self, moves: list[pods.Move]) -> list[UUID]:
        """Those that came up."""
        moved: set[UUID] = set()
        if moves:
            moved = await self._ledger.move(moves)
            for move in moves:
                if move.pod_id in moved:
                    log.info("pod_came_up", pod_id=str(move.pod_id), state=move.after, detail=move.detail)
        return [move.pod_id for move in moves if move.pod_id in moved and move.after is pods.State.READY]

    async def _measure(self, pod_id: UUID) -> None:
        pod = await self._ledger.pod(pod_id)
        if pod is None:
            return
        times = [getattr(pod, f"{stage}_time") for stage in _STAGES]
        if None in times:
            # It was adopted: nobody knows when it began.
            return
        for stage, before, after in zip(_STAGES[1:], times, times[1:], strict=False):
            START.labels(pod.provider, stage).observe((after - before).total_seconds())
        START.labels(pod.provider, "all").observe((times[-1] - times[0]).total_seconds())

    def _verdict(self, pod: pods.Pod, worker: fleet_facts.Worker | None) -> pods.Move | None:
        if worker is None:
            return None
        if shortcoming := self._shortcoming(pod, worker):
            return pods.Move(pod.pod_id, pod.state, pods.State.DESTROYING, pods.Reason.UNSUITABLE, shortcoming)
        if worker.resident:
            return pods.Move(pod.pod_id, pod.state, pods.State.READY, detail="its worker has passed its canary")
        if words := worker.unable.get(pod.workload):
            return pods.Move(pod.pod_id, pod.state, pods.State.DESTROYING, pods.Reason.MODEL_UNAVAILABLE, words)
        return None

    def _shortcoming(self, pod: pods.Pod, worker: fleet_facts.Worker) -> str:
        """How it came up as something else than was ordered, or than is needed; empty: it did not."""
        if pod.gpu_type and len(worker.gpus) < pod.gpu_count:
            return f"it came up with {len(worker.gpus)} of {pod.gpu_count} GPUs"
        for gpu in worker.gpus if pod.gpu_type else ():
            if gpu.vram_bytes and gpu.vram_bytes < _MEMORY_SHARE * pod.vram_bytes:
                return f"{gpu.name or gpu.uuid} has {_gib(gpu.vram_bytes)}, and {_gib(pod.vram_bytes)} were ordered"
            came, ordered = versions.parsed(gpu.compute_capability), versions.parsed(pod.compute_capability)
            if came and came < ordered:
                ordered_words = f"{pod.compute_capability} was ordered"
                return f"{gpu.name or gpu.uuid} has compute capability {gpu.compute_capability}, and {ordered_words}"
        rented_for = self._workloads.get(pod.workload)
        if rented_for is None or worker.fits(rented_for.needs):
            return ""
        there = "; ".join(sorted({_words(device) for device in worker.devices}))
        return f"it has not what {pod.workload} needs ({_needs(rented_for.needs)}): {there}"


def _words(device: worker_pb2.Device) -> str:
    capability = f", compute capability {device.compute_capability}" if device.compute_capability else ""
    cuda = f", CUDA {device.cuda_version}" if device.cuda_version else ""
    return f"{device.name or device.uuid} with {_gib(device.vram_bytes)}{capability}{cuda}"


def _needs(needs: workload_pb2.DeviceNeeds) -> str:
    wanted = [_gib(needs.vram_bytes)] if needs.vram_bytes else []
    if needs.min_compute_capability:
        wanted.append(f"compute capability {needs.min_compute_capability}")
    if needs.min_cuda_version:
        wanted.append(f"CUDA {needs.min_cuda_version}")
    return ", ".join(wanted)


def _gib(size: int) -> str:
    """As "23.7 GiB"."""
    return f"{size / (1 << 30):.1f} GiB"
