"""The batch: its states, and who moves it on.

```mermaid
stateDiagram-v2
    [*] --> PENDING: admit
    PENDING --> QUEUED: feed
    PENDING --> COMPLETED: assemble (all of its items are known already)
    QUEUED --> LEASED: claim
    QUEUED --> PENDING: refeed (its entry is gone from Redis)
    LEASED --> COMPLETED: complete
    LEASED --> PENDING: retry, hand back, or lease lost
    LEASED --> PENDING: split (its executor crashed or hung; each half is a batch)
    LEASED --> FAILED: give up
    PENDING --> FAILED: give up (nobody can serve it)
    QUEUED --> FAILED: give up (nobody can serve it)
    COMPLETED --> DELIVERED: release
    COMPLETED --> PENDING: recompute (its result is gone from Redis)
    COMPLETED --> CANCELLED: cancel (its result is gone, its job was cancelled)
    COMPLETED --> EXPIRED: expire (its result is gone, its job has expired)
    PENDING --> CANCELLED: cancel
    QUEUED --> CANCELLED: cancel
    LEASED --> CANCELLED: cancel
    PENDING --> EXPIRED: expire
    QUEUED --> EXPIRED: expire
    LEASED --> EXPIRED: expire
    FAILED --> PENDING: requeue (an operator)
```

The ledger's statements carry the same guards (`WHERE state = ... AND lease_token = ...`), and its CHECKs the same
invariants; `TRANSITIONS` is the one list that both are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class State(StrEnum):
    """Where a batch stands."""

    PENDING = "PENDING"
    """In the ledger only. The feeder moves it on when the work stream has room and its turn has come; the assembler,
    when it waits for items that others compute and all of them are known."""
    QUEUED = "QUEUED"
    """A reference is in the work stream. A replica with a worker that has credit claims it."""
    LEASED = "LEASED"
    """One worker session holds the lease of this attempt. Its result, its failure or its loss moves it on."""
    COMPLETED = "COMPLETED"
    """The outcome is durable. The client's acknowledgement moves it on."""
    DELIVERED = "DELIVERED"
    """Acknowledged; payload and result are dropped. Final."""
    FAILED = "FAILED"
    """Given up for a typed reason. Final, unless an operator requeues it."""
    CANCELLED = "CANCELLED"
    """Its job was cancelled. Final."""
    EXPIRED = "EXPIRED"
    """Its job's deadline passed. Final."""


class Event(StrEnum):
    """What happens to a batch."""

    FEED = "feed"
    CLAIM = "claim"
    REFEED = "refeed"
    COMPLETE = "complete"
    ASSEMBLE = "assemble"
    RETRY = "retry"
    SPLIT = "split"
    GIVE_UP = "give_up"
    RELEASE = "release"
    RECOMPUTE = "recompute"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REQUEUE = "requeue"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PENDING, Event.FEED): State.QUEUED,
    (State.PENDING, Event.ASSEMBLE): State.COMPLETED,
    (State.QUEUED, Event.CLAIM): State.LEASED,
    (State.QUEUED, Event.REFEED): State.PENDING,
    (State.LEASED, Event.COMPLETE): State.COMPLETED,
    (State.LEASED, Event.RETRY): State.PENDING,
    (State.LEASED, Event.SPLIT): State.PENDING,
    (State.LEASED, Event.GIVE_UP): State.FAILED,
    (State.PENDING, Event.GIVE_UP): State.FAILED,
    (State.QUEUED, Event.GIVE_UP): State.FAILED,
    (State.COMPLETED, Event.RELEASE): State.DELIVERED,
    (State.COMPLETED, Event.RECOMPUTE): State.PENDING,
    (State.COMPLETED, Event.CANCEL): State.CANCELLED,
    (State.COMPLETED, Event.EXPIRE): State.EXPIRED,
    (State.PENDING, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.LEASED, Event.CANCEL): State.CANCELLED,
    (State.PENDING, Event.EXPIRE): State.EXPIRED,
    (State.QUEUED, Event.EXPIRE): State.EXPIRED,
    (State.LEASED, Event.EXPIRE): State.EXPIRED,
    (State.FAILED, Event.REQUEUE): State.PENDING,
}

OPEN = frozenset({State.PENDING, State.QUEUED, State.LEASED})
"""States in which a batch still has work before it."""

WITHOUT_RESULT = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
"""Final states in which none of its items has a vector."""


class FailureReason(StrEnum):
    """Why a batch has no vectors. Apart from its state, so that neither grows with the other."""

    WORKER_LOST = "WORKER_LOST"
    EXECUTOR_CRASHED = "EXECUTOR_CRASHED"
    EXECUTOR_HUNG = "EXECUTOR_HUNG"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    BAD_PAYLOAD = "BAD_PAYLOAD"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    BAD_RESULT = "BAD_RESULT"
    INTERNAL = "INTERNAL"


class IllegalTransition(Exception):
    """The event cannot happen in this state."""


def after(state: State, event: Event) -> State:
    """The state that follows. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} in {state}") from None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a batch is tried again."""

    max_attempts: int = 5
    first_delay: timedelta = timedelta(milliseconds=200)
    max_delay: timedelta = timedelta(seconds=30)

    def delay(self, attempt: int) -> timedelta:
        """The wait after the failure of attempt `attempt` (from 1): doubling, bounded."""
        doublings: int = min(attempt - 1, 20)
        return min(self.first_delay * (1 << doublings), self.max_delay)


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay`. A handed-back attempt does not count."""

    delay: timedelta
    counts: bool = True


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No attempt is left, or none could help. `message` is empty where the worker's own words say it best."""

    reason: FailureReason
    message: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """Go on as two batches: the first `first` items and the `second` after them. Each has its attempts before it."""

    first: int
    second: int


Outcome = Retry | GiveUp | Split

POISON = {
    FailureReason.EXECUTOR_CRASHED: "this item alone kills the process that computes it",
    FailureReason.EXECUTOR_HUNG: "this item alone brings the process that computes it to a standstill",
}
"""What is said of an item that stands alone, by what it does to its executor."""


def after_failure(
    attempt: int, reason: FailureReason, *, items: int, retryable: bool, handed_back: bool, policy: RetryPolicy
) -> Outcome:
    """What becomes of a batch of `items` items whose attempt `attempt` (from 1) failed."""
    if handed_back:
        # Not at once: a worker that hands everything back must not spin with it.
        return Retry(policy.first_delay, counts=False)
    if retryable and reason in POISON:
        return after_crash(attempt, items, policy, reason)
    if not retryable or attempt >= policy.max_attempts:
        return GiveUp(reason)
    return Retry(policy.delay(attempt))


def after_crash(
    attempt: int, items: int, policy: RetryPolicy, reason: FailureReason = FailureReason.EXECUTOR_CRASHED
) -> Outcome:
    """What becomes of a batch that was being worked on when its executor died, or was killed because it stood still.

    Any of its items may be the poison, and any neighbour in the executor: so it is halved until the poison stands
    alone, which one item in n does after at most log2(n) + 1 crashes, and is given up at the next one. An item that
    stands alone is never given up at its first crash: from the second attempt on a worker computes it without company.
    """
    if items > 1:
        return Split(items // 2, items - items // 2)
    if attempt > 1:
        return GiveUp(reason, POISON[reason])
    return Retry(policy.delay(attempt))
