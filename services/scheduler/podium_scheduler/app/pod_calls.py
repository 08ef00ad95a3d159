"""The calls of one round of the pod keeper: whose turn it is, and which are under way.

Promises: a pod is called for once in a round; of each kind only a few calls are under way at the same time, and one
that hangs takes up one of these places and keeps no other call from its turn. No call outlives the round.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from podium_scheduler.app import providers
from podium_scheduler.domain import pods

_AT_ONCE = 8
"""Create calls at the same time, and as many destroy calls."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: what it moves, and what went wrong."""

    move: pods.Move | None = None
    error: providers.ProviderError | None = None


class Calls:
    """Destroy and create calls that are due, begun and under way."""

    def __init__(self) -> None:
        self._begun: set[UUID] = set()
        self._destroys: deque[pods.Pod] = deque()
        self._creates: deque[pods.Pod] = deque()
        self._under_way: dict[asyncio.Task[Answer], bool] = {}
        """Whether they are create calls; in the order in which they were begun."""

    @property
    def due(self) -> bool:
        """Whether some have not had their turn."""
        return bool(self._destroys or self._creates)

    @property
    def under_way(self) -> bool:
        """Whether some have no answer yet."""
        return bool(self._under_way)

    def plan(self, doomed: Iterable[pods.Pod], wanted: Iterable[pods.Pod]) -> None:
        """What is due now, in the order of turns; those that have had theirs in this round are left out."""
        self._destroys = deque(pod for pod in doomed if pod.pod_id not in self._begun)
        self._creates = deque(pod for pod in wanted if pod.pod_id not in self._begun)

    def take(self) -> tuple[list[pods.Pod], list[pods.Pod]]:
        """Whose turn it is now: to be destroyed, and to be created."""
        creates = sum(self._under_way.values())
        destroys = len(self._under_way) - creates
        return self._next(self._destroys, _AT_ONCE - destroys), self._next(self._creates, _AT_ONCE - creates)

    def begin(self, task: asyncio.Task[Answer], *, creates: bool) -> None:
        """A call is under way."""
        self._under_way[task] = creates

    async def answers(self, within_s: float) -> list[Answer]:
        """Waits for some answers; none when there is none in time."""
        done, _ = await asyncio.wait(self._under_way, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        answers = []
        for task in [task for task in self._under_way if task in done]:
            # One that raises leaves the others to `give_up`, which looks at all of them.
            del self._under_way[task]
            answers.append(task.result())
        return answers

    async def give_up(self) -> None:
        """Ends those that are still under way: the round has failed."""
        left, self._under_way = list(self._under_way), {}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _next(self, queue: deque[pods.Pod], places: int) -> list[pods.Pod]:
        taken = [queue.popleft() for _ in range(min(places, len(queue)))]
        self._begun.update(pod.pod_id for pod in taken)
        return taken
