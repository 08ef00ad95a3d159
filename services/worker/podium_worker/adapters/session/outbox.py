"""Frames on their way to the scheduler. Open only while a session is."""

from __future__ import annotations

from collections.abc import Sequence

from podium.worker.v1 import worker_pb2
from podium_runtime import two_lanes
from podium_worker.adapters.session import messages
from podium_worker.app import ports
from podium_worker.domain import leases


class SessionOutbox:
    """ports.Outbox on the current session.

    Never waits: what can pile up is bounded by the batches and the calls in hand.
    """

    def __init__(self) -> None:
        self._queue: two_lanes.TwoLanes[bytes | None] | None = None

    def open(self) -> two_lanes.TwoLanes[bytes | None]:
        """A fresh queue for a fresh session. None in it means: nothing follows."""
        self._queue = two_lanes.TwoLanes()
        return self._queue

    def close(self) -> None:
        """The session is over; what was not sent is forgotten here (the worker keeps what matters)."""
        self._queue = None

    def finish(self) -> None:
        """Nothing will follow in this session."""
        if self._queue is not None:
            self._queue.put_nowait(None)
            self._queue = None

    def frames(self, serialized: Sequence[bytes]) -> None:
        if self._queue is not None:
            for frame in serialized:
                self._queue.put_nowait(frame)

    def say(self, frame: worker_pb2.WorkerFrame) -> None:
        """Queues one message."""
        self.frames([frame.SerializeToString()])

    def failed(self, lease: leases.Lease, failure: ports.Failure) -> None:
        self.say(messages.failed_message(lease, failure))

    def urgent(self, serialized: bytes) -> None:
        if self._queue is not None:
            self._queue.urge(serialized)

    def embed_failed(self, call_id: int, failure: ports.CallFailure) -> None:
        self.urgent(messages.embed_failed_message(call_id, failure).SerializeToString())
