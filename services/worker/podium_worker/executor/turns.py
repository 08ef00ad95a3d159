"""Whose turn it is on the device: batches in order, and interactive calls ahead of them.

Promises: an idle compute thread wakes at once for either; calls go first, but take no more than their share from
batches that wait, and leave the turn to work that they can ride along in; work is taken by one thread, the compute
thread, and may be given by any. Clock: monotonic, injected by the calls' methods. Failure: none of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from podium_worker.domain import shares

Work = TypeVar("Work")
Call = TypeVar("Call")


class Turns(Generic[Work, Call]):
    """What waits for the compute thread."""

    def __init__(
        self,
        ahead: int,
        share: shares.Share,
        hosts: Callable[[Work, Sequence[Call]], bool] = lambda work, calls: False,
    ) -> None:
        """`ahead`: prepared work that may wait; who brings more has to wait. `hosts`: whether work, once it is begun,
        sees to the first of the calls at once."""
        self._ahead = ahead
        self._share = share
        self._hosts = hosts
        self._changed = threading.Condition()
        self._work: deque[Work] = deque()
        self._unfinished = 0
        self._calls: list[Call] = []
        self.calls_s = 0.0
        """Seconds that calls have taken so far. Read and written by the compute thread alone."""

    def put(self, work: Work) -> None:
        """Waits for room."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._work) < self._ahead)
            self._work.append(work)
            self._unfinished += 1
            self._changed.notify_all()

    def call(self, call: Call) -> None:
        """Never waits: who gives calls bounds them."""
        with self._changed:
            self._calls.append(call)
            self._changed.notify_all()

    def take(self) -> Work | list[Call]:
        """Waits for what is next: all calls that wait, or the next work, which is to be `done`."""
        with self._changed:
            while True:
                if self._calls and self._go_first():
                    return self._taken()
                if self._work:
                    work = self._work.popleft()
                    self._changed.notify_all()
                    return work
                self._changed.wait()

    def between(self) -> list[Call]:
        """All calls that may go ahead of work that is under way, between two of its micro-batches."""
        if not self._calls:
            # A look without the lock: this is asked before each micro-batch, and a call that is missed has the next.
            return []
        with self._changed:
            return self._taken() if self._share.allows(time.monotonic()) else []

    def give_back(self, calls: list[Call]) -> None:
        """Calls for which there was no room in this turn: they are the first of the next."""
        with self._changed:
            self._calls[:0] = calls

    def took(self, begin: float, end: float, *, ahead: bool) -> None:
        """A turn of calls is over, or what it would have taken; `ahead`: between or in micro-batches of work."""
        self.calls_s += end - begin
        with self._changed:
            if ahead or self._work:
                self._share.take(begin, end)

    def done(self) -> None:
        """Work that was taken is over."""
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def join(self) -> None:
        """Waits until all work that was put is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)

    def _go_first(self) -> bool:
        if not self._work:
            return True
        return self._share.allows(time.monotonic()) and not self._hosts(self._work[0], self._calls)

    def _taken(self) -> list[Call]:
        calls, self._calls = self._calls, []
        return calls
