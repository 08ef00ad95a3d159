"""A scheduler that does nothing but keep one worker's credits full: no ledger, no Redis, no clients.

Promises: a batch is assigned as soon as the worker's last Status has room for it, and acknowledged as soon as it is
done; a failure of a batch, or of an item, ends the benchmark. Clock: this process's own, for the time from the first
Assign to the last Done. Failure: a worker that says nothing for _SILENCE_S is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from tests.bench import worker_meter
from tests.support import fake_scheduler

_SILENCE_S = 300.0
_HEARTBEAT_S = 0.1
_LOG_LETTERS = 4_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch carries; its lease is new in every run."""

    modality: workload_pb2.Modality
    payload: bytes
    items: int


@dataclass(frozen=True, slots=True)
class Fed:
    """One run. `vectors`: of all items in order, float32, shape (items, dimension)."""

    seconds: float
    vectors: npt.NDArray[np.float32]
    precision: str
    span: worker_meter.Span
    """From the first batch to the last."""


def texts(texts: Sequence[str], size: int) -> list[Batch]:
    """Batches of `size` texts."""
    cuts = [texts[at : at + size] for at in range(0, len(texts), size)]
    return [Batch(workload_pb2.MODALITY_TEXT, fake_scheduler.payload(cut), len(cut)) for cut in cuts]


def images(images: Sequence[bytes | str], size: int) -> list[Batch]:
    """Batches of `size` images: encoded files, or URLs."""
    items = [
        item_pb2.ImageItem(url=image) if isinstance(image, str) else item_pb2.ImageItem(data=image) for image in images
    ]
    cuts = [items[at : at + size] for at in range(0, len(items), size)]
    return [
        Batch(workload_pb2.MODALITY_IMAGE, item_pb2.ImageItems(items=cut).SerializeToString(), len(cut)) for cut in cuts
    ]


class Feed:
    """One worker, one session."""

    def __init__(
        self,
        scheduler: fake_scheduler.FakeScheduler,
        session: fake_scheduler.Session,
        process: fake_scheduler.WorkerProcess,
    ) -> None:
        self._scheduler = scheduler
        self._session = session
        self._process = process

    @property
    def device(self) -> worker_pb2.Device:
        """The worker's only one."""
        return self._session.hello.devices[0]

    def budget(self, workload: str) -> int:
        """Tokens or images of one micro-batch of a loaded model; 0 when none is."""
        models = self._session.statuses[-1].devices[0].models if self._session.statuses else []
        return next((model.budget for model in models if model.workload == workload), 0)

    async def run(self, workload: str, batches: Sequence[Batch]) -> Fed:
        """Has all batches computed."""
        assigns = [self._assign(workload, batch) for batch in batches]
        run = _Run(self._session, workload, deque(assigns), self._process.log)
        metrics = str(self._process.ready()["metrics"])
        first: asyncio.Task[worker_meter.Reading] | None = None
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            refilling = group.create_task(run.refill_for_ever())
            while not run.finished:
                done = await run.step()
                # Before that the device waited for this run to begin.
                if done and first is None:
                    first = group.create_task(worker_meter.read(metrics))
            refilling.cancel()
        seconds = time.perf_counter() - started
        assert first is not None, "a run has batches"
        span = worker_meter.Span(first.result(), await worker_meter.read(metrics))
        return Fed(seconds, run.vectors(assigns), run.precision, span)

    def _assign(self, workload: str, batch: Batch) -> worker_pb2.Assign:
        return self._scheduler.assignment(
            workload, [], item_count=batch.items, payload=batch.payload, modality=batch.modality
        )


@dataclass(slots=True)
class _Run:
    """What is to be computed, is in hand, and has come back."""

    session: fake_scheduler.Session
    workload: str
    waiting: deque[worker_pb2.Assign]
    log: Path
    """The worker's."""
    in_hand: dict[int, worker_pb2.Assign] = field(default_factory=dict)
    rows: dict[int, list[npt.NDArray[np.float32]]] = field(default_factory=dict)
    precision: str = ""

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.in_hand

    async def refill_for_ever(self) -> None:
        """At each Status."""
        while True:
            self.session.told.clear()
            self.refill()
            await self.session.told.wait()

    def refill(self) -> None:
        """Assigns what the worker has credits for."""
        if not self.session.statuses:
            return
        offers = self.session.statuses[-1].workloads
        offer = next((offer for offer in offers if offer.workload == self.workload), None)
        if offer is None or offer.unavailable_reason:
            raise RuntimeError(f"the worker does not serve {self.workload}: {offer and offer.unavailable_reason}")
        while self.waiting and len(self.in_hand) < offer.credits:
            assign = self.waiting.popleft()
            self.in_hand[assign.lease.batch_id] = assign
            self.session.say(assign=assign)

    async def step(self) -> bool:
        """Takes the worker's next frame; whether it ended a batch."""
        async with asyncio.timeout(_SILENCE_S):
            frame = await self.session.frames.get()
        if frame is None:
            raise RuntimeError(f"the worker has ended its session:\n{self.log.read_text()[-_LOG_LETTERS:]}")
        match frame.WhichOneof("frame"):
            case "chunk":
                self._keep(frame.chunk)
            case "failed":
                raise RuntimeError(f"a batch failed: {frame.failed.message}")
            case "done":
                del self.in_hand[frame.done.lease.batch_id]
                self.session.acknowledge(frame.done.lease)
                self.refill()
                return True
        return False

    def vectors(self, assigns: Sequence[worker_pb2.Assign]) -> npt.NDArray[np.float32]:
        """In the order of the batches."""
        return np.concatenate([part for assign in assigns for part in self.rows[assign.lease.batch_id]])

    def _keep(self, chunk: worker_pb2.BatchChunk) -> None:
        found = chunk.chunk
        if found.errors:
            raise RuntimeError(f"an item failed: {found.errors[0].message}")
        self.precision = found.provenance.precision or self.precision
        rows = np.frombuffer(found.vectors, "<f4").reshape(-1, found.dimension)
        self.rows.setdefault(chunk.lease.batch_id, []).append(rows)


@contextlib.asynccontextmanager
async def feeding(workloads: Sequence[workload_pb2.Workload], folder: Path, **settings: str) -> AsyncIterator[Feed]:
    """A worker process, connected; `settings` are its PODIUM_ environment."""
    heartbeat = fake_scheduler.seconds(_HEARTBEAT_S)
    scheduler = fake_scheduler.FakeScheduler(workloads, heartbeat_interval=heartbeat)
    async with (
        fake_scheduler.served(scheduler) as address,
        fake_scheduler.deployed_worker(address, folder, **settings) as process,
    ):
        session = await scheduler.session()
        await session.status(lambda status: bool(status.workloads))
        yield Feed(scheduler, session, process)
