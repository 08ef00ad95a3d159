"""Which models the workers of pods could load, and which not, as domain.autoscaling.trials counts it.

The ledger has what pods ended for before they were READY. What a pod's worker said beside that, of a pod that went on
with another model or that was given back meanwhile, is this process' memory: a new leader finds a pod that became READY
to have loaded what it was rented for, which at worst has one try more made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from podium.common.v1 import workload_pb2
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import trials

_NOT_LOADED = frozenset({pods.Reason.MODEL_UNAVAILABLE, pods.Reason.CANARY_TIMEOUT})


class Told(Protocol):
    """What a worker says of models; see fleet_facts.Worker."""

    @property
    def resident(self) -> frozenset[str]: ...
    @property
    def unable(self) -> Mapping[str, str]: ...
    def fits(self, needs: workload_pb2.DeviceNeeds) -> bool: ...


@dataclass(slots=True)
class _Known:
    """What the worker of a pod has said so far."""

    loaded: set[str] = field(default_factory=set)
    failed: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Its words, and whether it has what that workload needs."""


class ModelTrials:
    """Keeps what the workers of the newest pods said."""

    def __init__(
        self, workloads: Mapping[str, workload_pb2.Workload], offer_of: Callable[[pods.Pod], offers.Offer]
    ) -> None:
        self._workloads = workloads
        self._offer_of = offer_of
        self._known: dict[UUID, _Known] = {}
        self._newest: Sequence[pods.Pod] = ()

    def observe(self, newest: Sequence[pods.Pod], workers: Mapping[UUID | None, Told]) -> None:
        """`newest`: pods of any state, the newest first."""
        self._newest = newest
        self._known = {pod.pod_id: self._known.get(pod.pod_id) or _Known() for pod in newest}
        for pod in newest:
            worker = workers.get(pod.worker_id) if pod.worker_id is not None else None
            if worker is not None and (worker.resident or worker.unable):
                self._note(self._known[pod.pod_id], pod, worker)

    def _note(self, known: _Known, pod: pods.Pod, worker: Told) -> None:
        known.loaded |= worker.resident
        for name in worker.resident & known.failed.keys():
            del known.failed[name]
        for name, words in worker.unable.items():
            fits = name in self._workloads and worker.fits(self._workloads[name].needs)
            # A pod that is too small for what it was not rented for says nothing about that.
            if (fits or name == pod.workload) and name not in known.loaded:
                known.failed[name] = words, fits

    def of(self, workload: str, since: float | None, leads_since: float, now: float) -> trials.Findings:
        """What they say about a workload. Times in seconds; see trials.findings."""
        return trials.findings(self._trials(workload), since, leads_since, now)

    def _trials(self, workload: str) -> Iterator[trials.Trial]:
        for pod in self._newest:
            known = self._known[pod.pod_id]
            words, fits = known.failed.get(workload, ("", True))
            if not words and pod.workload == workload and pod.ready_time is None and pod.reason in _NOT_LOADED:
                words = pod.detail or "its model could not be loaded"
            came = pod.workload == workload and pod.ready_time is not None
            if words or came or workload in known.loaded:
                ended = pod.end_time or pod.destroy_time
                yield trials.Trial(
                    self._offer_of(pod).key,
                    pod.create_time.timestamp(),
                    None if ended is None else ended.timestamp(),
                    words,
                    fits,
                )
