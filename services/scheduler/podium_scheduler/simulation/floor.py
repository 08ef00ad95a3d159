"""The work and who does it: jobs in their queues, and the workers on the simulated machines.

Batches are fed in the order in which the feeder takes them within one app and priority, the oldest job's first. A
worker registers with its pod's join token, loads the model that its pod was rented for, works, and leaves when it was
told to and has nothing in hand. A batch whose worker is cut off waits until its session has ended, and is computed
again from its begin. Sessions are told in the worker's own frames, as the session ledger keeps them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from podium.worker.v1 import worker_pb2
from podium_scheduler.app import join_tokens, records
from podium_scheduler.simulation.agenda import Agenda
from podium_scheduler.simulation.cloud import Machine
from podium_scheduler.simulation.market import Market
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from podium_scheduler.simulation.traces import Arrival

_WORKERS = 1 << 64
"""Ids of workers begin here, so that they are nobody else's."""


@dataclass(slots=True, eq=False)
class Job:
    """A job on its way through."""

    arrival: Arrival
    waiting: int
    left: int
    done_s: float = math.inf


@dataclass(slots=True, eq=False)
class Worker:
    """The process on a machine."""

    worker_id: UUID
    machine: Machine
    hello: bytes
    resident: str = ""
    loading: bool = False
    told_to_leave: bool = False
    cut_off: bool = False
    job: Job | None = None
    batch_items: int = 0
    status: bytes = field(default=b"", repr=False)
    """As it was told last; empty: it has changed since."""

    def told(self) -> bytes:
        """Its heartbeat."""
        if not self.status:
            idle = worker_pb2.DEVICE_STATE_READY if self.resident else worker_pb2.DEVICE_STATE_IDLE
            state = worker_pb2.DEVICE_STATE_BUSY if self.job else idle
            device = worker_pb2.DeviceStatus(state=worker_pb2.DEVICE_STATE_BOOTING if self.loading else state)
            if self.resident and not self.loading:
                device.resident_workloads.append(self.resident)
            in_hand = [worker_pb2.Lease(batch_id=1)] if self.job else []
            told = worker_pb2.Status(devices=[device], in_hand=in_hand, draining=self.told_to_leave)
            self.status = told.SerializeToString()
        return self.status


class Floor:
    """Jobs and workers. `on_change` is told when a pod may have become READY, and when a worker has left."""

    def __init__(
        self,
        market: Market,
        agenda: Agenda,
        ledger: PodLedgerModel,
        workloads: Iterable[str],
        dice: random.Random,
        batch_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._market = market
        self._agenda = agenda
        self._ledger = ledger
        self._dice = dice
        self._batch_s = batch_s
        self._on_change = on_change
        self._queues: dict[str, deque[Job]] = {workload: deque() for workload in workloads}
        self._workers: dict[UUID, Worker] = {}
        self._ids = itertools.count(_WORKERS)
        self.jobs: list[Job] = []
        self.items_left = 0
        self.last_used: dict[UUID, datetime] = {}
        """When each pod last finished something."""

    def arrive(self, arrival: Arrival) -> None:
        """A job comes."""
        job = Job(arrival, arrival.items, arrival.items)
        self.jobs.append(job)
        self._queues[arrival.workload].append(job)
        self.items_left += arrival.items
        self._hand_out()

    async def begin(self, machine: Machine) -> None:
        """The worker of a machine is up, and joins."""
        worker_id, pod_id = UUID(int=next(self._ids)), machine.order.pod_id
        tokens = join_tokens.JoinTokens(self._ledger)
        words = machine.order.environment["PODIUM_JOIN_TOKEN"]
        if await tokens.redeem(words, pod_id, worker_id) is not None:
            return
        devices = [worker_pb2.Device(uuid=f"GPU-{n}") for n in range(max(1, machine.offer.gpu_count))]
        hello = worker_pb2.Hello(worker_id=str(worker_id), devices=devices, pod_id=str(pod_id))
        worker = Worker(worker_id, machine, hello.SerializeToString())
        self._workers[worker_id] = worker
        self._load(worker, self._ledger.rows[pod_id].workload)

    def cut_off(self, machine: Machine) -> None:
        """The worker of a machine is heard of no more; after the grace its session ends."""
        for worker in self._workers.values():
            if worker.machine is machine:
                worker.cut_off = True
                self._agenda.after(self._market.session_grace_s, lambda worker=worker: self._end(worker))  # type: ignore[misc]

    async def drain(self, worker_id: UUID) -> bool:
        """Tells a worker to finish and leave; as app.draining."""
        worker = self._workers.get(worker_id)
        if worker is not None and not worker.told_to_leave:
            worker.told_to_leave, worker.status = True, b""
            self._leave(worker)
        return worker is not None

    async def placed(self) -> list[records.PlacedSession]:
        """As of a session ledger."""
        return [
            records.PlacedSession(w.worker_id, w.hello, w.told(), w.told_to_leave, "", ())
            for w in self._workers.values()
        ]

    async def last_uses(self) -> dict[UUID, datetime]:
        """As of a cost ledger."""
        return self.last_used

    def _hand_out(self) -> None:
        for worker in list(self._workers.values()):
            self._work(worker)

    def _work(self, worker: Worker) -> None:
        """Gives a worker that is free its next batch, or the model for it."""
        if worker.job is not None or worker.loading or worker.told_to_leave or worker.cut_off:
            return
        workload = self._next_workload(worker)
        if workload is None:
            return
        if workload != worker.resident:
            self._load(worker, workload)
            return
        rate = self._market.rate(workload, worker.machine.offer)
        queue = self._queues[workload]
        job = queue[0]
        items = min(job.waiting, max(1, round(self._batch_s * rate)))
        job.waiting -= items
        if not job.waiting:
            queue.popleft()
        worker.job, worker.batch_items, worker.status = job, items, b""
        seconds = items / rate * (1 + self._dice.uniform(0, self._market.slowdown))
        self._agenda.after(seconds, lambda: self._done(worker))

    def _next_workload(self, worker: Worker) -> str | None:
        if self._queues.get(worker.resident):
            return worker.resident
        able = [w for w, queue in self._queues.items() if queue and self._market.rate(w, worker.machine.offer)]
        return min(able, key=lambda w: (self._queues[w][0].arrival.due_s, w), default=None)

    def _load(self, worker: Worker, workload: str) -> None:
        worker.loading, worker.resident, worker.status = True, workload, b""
        seconds = self._market.load_s.get((workload, worker.machine.offer.device), 0.0)
        self._agenda.after(seconds, lambda: self._loaded(worker))

    def _loaded(self, worker: Worker) -> None:
        if worker.cut_off:
            return
        worker.loading, worker.status = False, b""
        self._note_use(worker)
        self._work(worker)
        self._leave(worker)
        self._on_change()

    def _done(self, worker: Worker) -> None:
        job, items = worker.job, worker.batch_items
        if worker.cut_off or job is None:
            return
        worker.job, worker.status = None, b""
        self._note_use(worker)
        job.left -= items
        self.items_left -= items
        if not job.left:
            job.done_s = self._agenda.now_s
        self._work(worker)
        self._leave(worker)

    def _note_use(self, worker: Worker) -> None:
        self.last_used[worker.machine.order.pod_id] = self._agenda.now()

    def _leave(self, worker: Worker) -> None:
        if worker.told_to_leave and worker.job is None and not worker.loading and not worker.cut_off:
            worker.cut_off = True
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        """Its session is over."""
        del self._workers[worker.worker_id]
        self._ledger.workers_gone[worker.worker_id] = self._agenda.now()
        self.last_used.pop(worker.machine.order.pod_id, None)
        if (job := worker.job) is not None:
            worker.job = None
            if not job.waiting:
                self._queues[job.arrival.workload].appendleft(job)
            job.waiting += worker.batch_items
            self._hand_out()
        self._on_change()
