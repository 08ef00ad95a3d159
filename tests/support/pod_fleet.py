"""What runs on the pods of a stand-in, as the scheduler hears of it: workers that join, work, leave and die.

A worker comes up a while after its pod runs, shows the join token that its pod was created with, loads the one model
that there is, and takes from the one queue that there is. It dies with its pod, and with its pod's GPU. It is the
autoscaler's SessionLedger, ScalingLedger, CostLedger, LoadLedger and Draining at once, as far as that asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock
from podium_scheduler.app import fleet_facts, join_tokens, providers, records
from podium_scheduler.domain import pods, room
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Phase

WORKLOAD = "minilm"
KNOWN = {
    WORKLOAD: workload_pb2.Workload(name=WORKLOAD, needs=workload_pb2.DeviceNeeds(min_cuda_version="12.4")),
}
"""The registry."""
ITEMS_PER_S = 50.0
"""Of one GPU; what the autoscaler assumes where nothing has been measured."""
_BOOT_S = 30.0
"""From running until the worker joins, and again until its model is loaded."""
_BORN = UUID(int=7)


@dataclass(slots=True)
class Worker:
    """One life of a worker process."""

    worker_id: UUID
    pod: stand_in.Pod
    joined: datetime
    told_to_leave: bool = False
    leaves: bool = False
    gone: bool = False
    busy: bool = False
    active: datetime | None = None


@dataclass(slots=True)
class Burst:
    """Items that came at once."""

    items: float
    since: datetime
    due: datetime


@dataclass
class Fleet:
    """Workers of the pods of one stand-in, and the queue that they work on."""

    cloud: stand_in.StandIn
    ledger: PodLedgerModel
    time: clock.Clock
    bursts: list[Burst] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    """By the pod's name."""
    leads: bool = True
    """As of app.ports.Leadership."""
    _words: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    _looked: datetime | None = None

    def order(self, pod: pods.Pod, token: str) -> providers.Order:
        """What the keeper orders for a pod, whose token its worker will show."""
        self._words[pod.name] = (pod.pod_id, token)
        environment = {"PODIUM_JOIN_TOKEN": token}
        return providers.Order(pod.pod_id, pod.name, fleet_facts.offer_of(pod), "podium/worker:1", (), environment)

    async def tick(self) -> None:
        """What came to pass since the last one."""
        now = self.time.now()
        passed_s = (now - (self._looked or now)).total_seconds()
        self._looked = now
        for pod in self.cloud.existing():
            if pod.name not in self.workers and pod.name in self._words and self._is_up(pod, now):
                await self._join(pod, now)
        for worker in self.workers.values():
            if not worker.gone:
                self._live(worker, now, passed_s)
        self.bursts = [burst for burst in self.bursts if burst.items >= 1]

    def _is_up(self, pod: stand_in.Pod, now: datetime) -> bool:
        age_s = (now - pod.create_time).total_seconds()
        running = pod.phase(now, self.cloud.pace) is Phase.RUNNING
        return running and age_s >= self.cloud.pace.provisioning_s + self.cloud.pace.starting_s + _BOOT_S

    async def _join(self, pod: stand_in.Pod, now: datetime) -> None:
        pod_id, words = self._words[pod.name]
        worker = Worker(uuid5(_BORN, pod.pod_id), pod, now)
        self.workers[pod.name] = worker
        refusal = await self.ledger.redeem(join_tokens.digest(words), pod_id, worker.worker_id)
        worker.gone = refusal is not None

    def _live(self, worker: Worker, now: datetime, passed_s: float) -> None:
        pod = worker.pod
        ended = pod.end(now) is not None or pod.phase(now, self.cloud.pace) is Phase.STOPPED
        if ended or not self._has_gpus(pod, now) or (worker.leaves and not worker.busy):
            worker.gone, worker.busy = True, False
            self.ledger.workers_gone[worker.worker_id] = now
            return
        worker.leaves = worker.told_to_leave
        worker.busy = self._is_loaded(worker, now) and not worker.leaves and bool(self.bursts)
        if worker.busy:
            worker.active = now
            self._work(passed_s * ITEMS_PER_S * max(1, pod.gpu_count))

    def _has_gpus(self, pod: stand_in.Pod, now: datetime) -> bool:
        return pod.gpu_count == 0 or pod.has_gpu(now)

    def _is_loaded(self, worker: Worker, now: datetime) -> bool:
        return not worker.pod.misbehaviour.wrong_cuda and now - worker.joined >= timedelta(seconds=_BOOT_S)

    def _work(self, items: float) -> None:
        for burst in self.bursts:
            done = min(items, burst.items)
            burst.items -= done
            items -= done

    # --- what the autoscaler asks -------------------------------------------------------------------------

    async def placed(self) -> list[records.PlacedSession]:
        """See adapters.sql.session_ledger."""
        now = self.time.now()
        return [self._session(worker, now) for worker in self.workers.values() if not worker.gone]

    def _session(self, worker: Worker, now: datetime) -> records.PlacedSession:
        wrong = worker.pod.misbehaviour.wrong_cuda
        names = [f"GPU-{n}" for n in range(worker.pod.gpu_count)] or ["cpu"]
        cuda = "11.8" if wrong else "13.0"
        devices = [worker_pb2.Device(uuid=name, cuda_version="" if name == "cpu" else cuda) for name in names]
        hello = worker_pb2.Hello(worker_id=str(worker.worker_id), devices=devices)
        status = worker_pb2.Status(draining=worker.leaves)
        if wrong and worker.pod.gpu_count:
            status.workloads.add(workload=WORKLOAD, unavailable_reason="No device here has a driver for CUDA 12.4.")
        loaded = [WORKLOAD] if self._is_loaded(worker, now) else []
        for index in range(len(names)):
            status.devices.add(index=index, state=worker_pb2.DEVICE_STATE_IDLE, resident_workloads=loaded)
        if worker.busy:
            status.in_hand.add(batch_id=1)
        return records.PlacedSession(
            worker.worker_id, hello.SerializeToString(), status.SerializeToString(), worker.told_to_leave, "", ()
        )

    async def drain(self, worker_id: UUID) -> bool:
        """See app.draining."""
        found = [one for one in self.workers.values() if one.worker_id == worker_id and not one.gone]
        for worker in found:
            worker.told_to_leave = True
        return bool(found)

    async def limits(self) -> records.ScalingLimits | None:
        """No operator has set any."""
        return None

    async def demands(self, tight: Mapping[str, room.Tight]) -> list[records.DemandRow]:
        """What is left of each burst."""
        return [records.DemandRow(WORKLOAD, round(one.items), one.since, one.due) for one in self.bursts]

    async def budgeted(self, tight: Mapping[str, room.Tight]) -> list[records.BudgetedJob]:
        """None has a budget of its own."""
        return []

    async def arrivals(self) -> dict[str, records.Arrivals]:
        """Nothing comes steadily."""
        return {}

    async def throughputs(self) -> list[records.Throughput]:
        """Nothing has been measured."""
        return []

    async def loads(self) -> list[records.MeasuredLoad]:
        """Likewise."""
        return []

    async def decide(self, decisions: Sequence[records.Decision]) -> None:
        """Nobody asks why."""

    async def last_uses(self) -> dict[UUID, datetime]:
        """When each pod was last at work."""
        return {
            self._words[name][0]: worker.active for name, worker in self.workers.items() if worker.active is not None
        }
