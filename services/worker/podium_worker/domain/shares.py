"""How much of a device's time interactive calls may take from batches that wait.

They go first, so that somebody who waits does not wait for a whole batch. But batches keep a guaranteed share: of any
window, calls take at most theirs, and one turn that was begun while there was some left. What calls take while no batch
waits is taken from nobody and does not count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Share:
    """Times are of one monotonic clock, in seconds; turns come in order and do not overlap."""

    limit: float = 0.5
    """Of the window, for calls; above 0, at most 1."""
    window_s: float = 2.0
    _turns: deque[tuple[float, float]] = field(default_factory=deque)

    def taken_s(self, now: float) -> float:
        """What calls took from batches in the last window."""
        since = now - self.window_s
        while self._turns and self._turns[0][1] <= since:
            self._turns.popleft()
        return sum(end - max(begin, since) for begin, end in self._turns)

    def allows(self, now: float) -> bool:
        """Whether a turn of calls may begin although a batch waits."""
        return self.limit >= 1 or self.taken_s(now) < self.limit * self.window_s

    def take(self, begin: float, end: float) -> None:
        """A turn of calls while a batch waited."""
        self.taken_s(end)
        self._turns.append((begin, end))
