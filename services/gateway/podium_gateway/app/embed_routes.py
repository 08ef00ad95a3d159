"""Which replica of the scheduler has a worker for an interactive call.

A worker's stream is at one replica, and the others know nothing of it: a replica that has no worker with the model says
so at once (NO_WARM_WORKER), and the next one is asked. The one that had it is asked first the next time. A replica that
cannot be reached is passed over alike. Every other error is the answer: a call that has already been to workers is not
tried on more of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import ports
from podium_runtime import errors

NO_WARM_WORKER = "NO_WARM_WORKER"
_NEXT = frozenset({NO_WARM_WORKER, "SCHEDULER_UNAVAILABLE", "SHUTTING_DOWN"})
_MAX_REMEMBERED = 1_000


class Routes:
    """The replicas."""

    def __init__(self, replicas: Sequence[ports.EmbedReplica]) -> None:
        self._replicas = tuple(replicas)
        self._had: dict[str, int] = {}
        self._next = 0

    async def embed(self, request: scheduler_pb2.EmbedRequest, timeout_s: float) -> scheduler_pb2.EmbedResponse:
        """The answer of the first replica that has one.

        Raises what it raises; errors.Unavailable with the shortest wait that any of them knows when none has a worker.
        """
        until = time.monotonic() + timeout_s
        refusals: list[errors.Unavailable] = []
        order = self._order(request.workload)
        for place, index in enumerate(order):
            left_s = until - time.monotonic()
            try:
                answer = await self._replicas[index].embed(request, left_s)
            except errors.Unavailable as error:
                if error.reason not in _NEXT:
                    raise
                refusals.append(error)
                if self._had.get(request.workload) == index:
                    del self._had[request.workload]
                if place + 1 < len(order) and until - time.monotonic() <= 0:
                    break
                continue
            self._remember(request.workload, index)
            return answer
        raise _verdict(refusals)

    def _order(self, workload: str) -> Sequence[int]:
        """All replicas, the one that had the workload first; else they take turns, so that all hear of the demand."""
        count = len(self._replicas)
        first = self._had.get(workload)
        if first is None:
            first, self._next = self._next % count, self._next + 1
        return [(first + step) % count for step in range(count)]

    def _remember(self, workload: str, index: int) -> None:
        if workload not in self._had and len(self._had) >= _MAX_REMEMBERED:
            del self._had[next(iter(self._had))]
        self._had[workload] = index


def _verdict(refusals: Sequence[errors.Unavailable]) -> errors.Unavailable:
    """A replica that looked knows more than one that could not be reached."""
    looked = [error for error in refusals if error.reason == NO_WARM_WORKER]
    return min(looked or refusals, key=lambda error: error.retry_after_s)
