"""What becomes of one batch while it is computed: who is told that it moves, and whether it is still wanted."""

from __future__ import annotations

import threading
import time

from podium.worker.v1 import worker_pb2
from podium_worker.adapters import faults, wire
from podium_worker.executor import batches, link

_PROGRESS_EVERY_S = 2.0
_MOVING_EVERY_S = 0.5


class Keys:
    """Batches in this process, and which of them are not wanted any more. Used by all threads."""

    def __init__(self) -> None:
        self._here: dict[str, bool] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """A batch has come."""
        with self._lock:
            self._here[key] = True

    def cancel(self, key: str) -> None:
        """Overtakes whatever is queued; comes to nothing when the batch has left."""
        with self._lock:
            if key in self._here:
                self._here[key] = False

    def wanted(self, key: str) -> bool:
        """Whether a batch has not been taken back."""
        return self._here.get(key, False)

    def drop(self, key: str) -> None:
        """It has left."""
        with self._lock:
            self._here.pop(key, None)


class Watch:
    """Progress of one batch: tells of each micro-batch, tells the scheduler about slow batches, stops the cancelled."""

    def __init__(self, front: link.Link, received: batches.Received, keys: Keys, injected: faults.Faults) -> None:
        self._front = front
        self._received = received
        self._keys = keys
        self._faults = injected
        self._moved_at = self._told_at = time.monotonic()
        self._items_told = 0
        self._items_done = 0

    @property
    def untold(self) -> int:
        """Items that are computed, and of which nobody was told."""
        return self._items_done - self._items_told

    def again(self) -> None:
        """It is computed from the beginning once more."""
        self._items_told = self._items_done = 0

    def progress(self, items_done: int) -> bool:
        """What a backend calls; False when the batch is not wanted any more."""
        self._items_done = items_done
        self._faults.reach("compute")
        now = time.monotonic()
        if now - self._moved_at >= _MOVING_EVERY_S:
            self._moved_at = now
            header = {"key": self._received.key, "workload": self._received.workload, "items": self.untold}
            self._front.tell(wire.Kind.PROGRESS, header, self._for_scheduler(now))
            self._items_told = items_done
        return self._keys.wanted(self._received.key)

    def _for_scheduler(self, now: float) -> bytes:
        """A Progress frame when it is time for one, else nothing."""
        if now - self._told_at < _PROGRESS_EVERY_S:
            return b""
        self._told_at = now
        said = worker_pb2.Progress(lease=self._received.assign.lease, items_done=self._items_done)
        return worker_pb2.WorkerFrame(progress=said).SerializeToString()
