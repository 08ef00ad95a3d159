"""When a worker that keeps sending results that cannot be is given no more batches, and when it may come back.

```mermaid
stateDiagram-v2
    [*] --> TRUSTED
    TRUSTED --> QUARANTINED: its results were refused too often in a while
    QUARANTINED --> PROBED: the pause is over, it is asked for its canaries
    PROBED --> TRUSTED: every loaded model has passed
```

Times are those of one monotonic clock, in seconds. A single refusal is noise on the wire; the worker checks its device
then by itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How much is too much."""

    refusals: int = 3
    window_s: float = 60.0
    pause_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Quarantine:
    """No batches until the pause is over and the check is passed."""

    reason: str
    until: float
    check: int
    """What Status.checked has to say."""

    def probes(self, now: float) -> bool:
        """Whether the worker is to be asked for its canaries."""
        return now >= self.until


@dataclass(frozen=True, slots=True)
class Conduct:
    """What a session has delivered lately."""

    refusals: tuple[float, ...] = ()

    def refused(self, now: float, policy: Policy) -> Conduct:
        """One more refusal; those that are older than the window are forgotten."""
        return Conduct((*(at for at in self.refusals if now - at < policy.window_s), now))

    def too_much(self, policy: Policy) -> bool:
        """Whether the worker is to be quarantined."""
        return len(self.refusals) >= policy.refusals
