"""Frames on their way to the scheduler. Open only while a session is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from podium.worker.v1 import worker_pb2
from podium_worker.adapters.session import messages
from podium_worker.app import ports
from podium_worker.domain import leases


class SessionOutbox:
    """ports.Outbox on the current session. Never waits: what can pile up is bounded by the batches in hand."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] | None = None

    def open(self) -> asyncio.Queue[bytes | None]:
        """A fresh queue for a fresh session. None in it means: nothing follows."""
        self._queue = asyncio.Queue()
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
