"""Moves pods on to READY when their workers are fit for work. Runs on the leader only.

A worker is fit when it has a model loaded, for every load ends with its canary. One that comes up without the GPUs that
were rented is given back at once: it would bill, and never be what it was rented for. So is one whose worker says that
it cannot load what it was rented for, before another model has made it READY: another machine may. Clock: the ledger's.
"""

from __future__ import annotations

from uuid import UUID

from prometheus_client import Histogram

from podium_runtime import logs
from podium_scheduler.app import fleet_facts, loops, ports
from podium_scheduler.domain import pods

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


class PodReadiness(loops.PatientLoop):
    """Looks at the pods that start."""

    name = "pod_readiness"

    def __init__(self, ledger: ports.PodLedger, sessions: ports.PlacedSessions) -> None:
        super().__init__()
        self._ledger = ledger
        self._sessions = sessions

    async def round(self) -> float:
        """One look."""
        starting = await self._ledger.starting()
        registered = [pod for pod in starting if pod.worker_id is not None]
        if registered:
            workers = await fleet_facts.workers_of(self._sessions)
            moves = [_verdict(pod, workers.get(pod.worker_id)) for pod in registered]
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


def _verdict(pod: pods.Pod, worker: fleet_facts.Worker | None) -> pods.Move | None:
    if worker is None:
        return None
    if pod.gpu_type and len(worker.gpus) < pod.gpu_count:
        detail = f"it came up with {len(worker.gpus)} of {pod.gpu_count} GPUs"
        return pods.Move(pod.pod_id, pod.state, pods.State.DESTROYING, pods.Reason.UNSUITABLE, detail)
    if worker.resident:
        return pods.Move(pod.pod_id, pod.state, pods.State.READY, detail="its worker has passed its canary")
    if words := worker.unable.get(pod.workload):
        return pods.Move(pod.pod_id, pod.state, pods.State.DESTROYING, pods.Reason.MODEL_UNAVAILABLE, words)
    return None
