"""How much of what there is too little of interactive calls may take from batches that wait.

They go first, so that somebody who waits does not wait for a whole batch. But batches keep a guaranteed share. Of a
device's time (`Share`): of any window, calls take at most theirs and one turn that was begun while there was some left.
Of decoders and of room for pictures (`Lead`), where many pieces are out at the same time: of all that passes, calls
take at most theirs and a lead. What calls take while no batch waits is taken from nobody and does not count.
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


@dataclass(slots=True)
class Lead:
    """How far calls are ahead of their share, in any one unit. What is out and not measured yet is not known here."""

    limit: float
    """Of all that passes while batches wait, for calls; above 0, at most 1."""
    most: float
    """What calls may have beyond that before batches go first, so that a few calls wait for none."""
    _ahead: float = 0.0

    @property
    def allows(self) -> bool:
        """Whether calls go first although a batch waits."""
        return self.limit >= 1 or self._ahead < self.most

    def take(self, much: float) -> None:
        """Calls had so much while a batch waited.

        Of one piece that was far too large the rest is forgiven: the calls behind it are not to wait for as long.
        """
        self._ahead = min(self._ahead + much, 2 * self.most)

    def repay(self, much: float) -> None:
        """Batches had so much. What they have while no call comes is not saved up."""
        if self.limit < 1:
            self._ahead = max(0.0, self._ahead - much * self.limit / (1 - self.limit))
