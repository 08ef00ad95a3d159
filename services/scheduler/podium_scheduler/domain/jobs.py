"""The job: its states, and what may be done in them.

```mermaid
stateDiagram-v2
    [*] --> PENDING: admit
    PENDING --> RUNNING: first batch leased
    PENDING --> COMPLETED: last batch finished
    RUNNING --> COMPLETED: last batch finished
    COMPLETED --> RUNNING: results lost, or a failed batch requeued
    PENDING --> CANCELLED: cancel
    RUNNING --> CANCELLED: cancel
    PENDING --> EXPIRED: deadline
    RUNNING --> EXPIRED: deadline
```
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    """Accepted; the first claim of one of its batches moves it on."""
    RUNNING = "RUNNING"
    """Batches are or were leased; the end of the last one moves it on."""
    COMPLETED = "COMPLETED"
    """Every item has its outcome."""
    CANCELLED = "CANCELLED"
    """Its app cancelled it."""
    EXPIRED = "EXPIRED"
    """Its deadline passed first."""


ACTIVE = frozenset({State.PENDING, State.RUNNING})
"""States in which a job still has work before it."""


def may_cancel(state: State) -> bool:
    """Whether a cancellation changes anything or repeats one."""
    return state in ACTIVE or state is State.CANCELLED
