"""A batch in the worker's hand, and how it moves.

```mermaid
stateDiagram-v2
    [*] --> RECEIVED: Assign of texts
    [*] --> FETCHING: Assign of images
    FETCHING --> RECEIVED: every image is fetched and decoded, or has failed, and an executor is there
    RECEIVED --> PREPARING: the executor began to decode and tokenise it
    PREPARING --> COMPUTING: its first micro-batch went to the device
    COMPUTING --> FINISHED: every result frame is in the front's memory
    FINISHED --> [*]: Ack (the scheduler has it for good)
    FETCHING --> [*]: failed, handed back, Cancel, fenced
    RECEIVED --> [*]: executor lost (handed back), handed back, Cancel, fenced
    PREPARING --> [*]: failed, executor lost (crashed), handed back, Cancel, fenced
    COMPUTING --> [*]: failed, executor lost (crashed), handed back, Cancel, fenced
    FINISHED --> [*]: Cancel, fenced
```

A batch leaves the hand only by Ack, by a failure that was told, or because its lease is not ours any more. A finished
batch outlives its executor and its session: its frames are kept until the Ack and sent again after a reconnect.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """Where a batch in hand stands."""

    FETCHING = "fetching"
    """The front fetches and decodes its images, or waits to hear what the model looks at. No executor has it yet, so
    the death of one is nothing to it. Left when the last item is decoded or has failed and an executor is there."""
    RECEIVED = "received"
    """Assigned; waits in the front or in the executor's queue. Left when the executor says it began."""
    PREPARING = "preparing"
    """The executor decodes and tokenises it. Left when the executor's compute thread takes it."""
    COMPUTING = "computing"
    """On the device. Left when the executor hands over the result or the failure."""
    FINISHED = "finished"
    """Its result frames wait for the scheduler's Ack."""


BEGUN = frozenset({State.PREPARING, State.COMPUTING})
"""What may have killed the process that died."""


AT_EXECUTOR = frozenset({State.RECEIVED, State.PREPARING, State.COMPUTING})
"""What an executor has to move on."""


class Event(enum.Enum):
    """What can happen to a batch in hand."""

    TAKEN_IN = "taken_in"
    """Its pictures are in the arena."""
    PREPARE_STARTED = "prepare_started"
    COMPUTE_STARTED = "compute_started"
    RESULT_READY = "result_ready"
    FAILED = "failed"
    EXECUTOR_LOST = "executor_lost"
    ACKED = "acked"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    HANDED_BACK = "handed_back"
    """The worker lets go of it: its drain is over, or its device is out of service for no fault of the batch."""


class Effect(enum.Enum):
    """What the worker owes after a move."""

    NONE = "none"
    SEND_RESULT = "send_result"
    """Send the result frames, and keep them."""
    REPORT_FAILURE = "report_failure"
    """Tell the executor's reason."""
    REPORT_CRASH = "report_crash"
    """Tell that the process died while it worked on this batch: the attempt counts."""
    HAND_BACK = "hand_back"
    """Tell that the batch was not touched: the attempt does not count."""
    STOP_WORK = "stop_work"
    """Tell the executor to drop it; the scheduler knows already."""


@dataclass(frozen=True, slots=True)
class Move:
    """Outcome of one event: the new state (None: not in hand any more) and what is owed."""

    state: State | None
    effect: Effect


_LEAVES: dict[Event, Effect] = {
    Event.FAILED: Effect.REPORT_FAILURE,
    Event.CANCELLED: Effect.STOP_WORK,
    Event.FENCED: Effect.STOP_WORK,
    Event.HANDED_BACK: Effect.HAND_BACK,
}


def advance(state: State, event: Event) -> Move:
    """The move of a batch in `state` on `event`. An event that comes too late changes nothing."""
    if state is State.FINISHED:
        return _advance_finished(event)
    if state is State.FETCHING:
        return _advance_fetching(event)
    if event is Event.RESULT_READY:
        return Move(State.FINISHED, Effect.SEND_RESULT)
    if event is Event.PREPARE_STARTED and state is State.RECEIVED:
        return Move(State.PREPARING, Effect.NONE)
    if event is Event.COMPUTE_STARTED:
        return Move(State.COMPUTING, Effect.NONE)
    if event is Event.EXECUTOR_LOST:
        # Only what the process was working on can have killed it; the rest is innocent and goes elsewhere at once.
        return Move(None, Effect.HAND_BACK if state is State.RECEIVED else Effect.REPORT_CRASH)
    if event is Event.ACKED:
        # The scheduler has this batch from somewhere else; working on is pointless.
        return Move(None, Effect.STOP_WORK)
    if event in _LEAVES:
        return Move(None, _LEAVES[event])
    return Move(state, Effect.NONE)


def _advance_fetching(event: Event) -> Move:
    if event is Event.TAKEN_IN:
        return Move(State.RECEIVED, Effect.NONE)
    if event is Event.ACKED:
        return Move(None, Effect.STOP_WORK)
    if event in _LEAVES:
        return Move(None, _LEAVES[event])
    return Move(State.FETCHING, Effect.NONE)


def _advance_finished(event: Event) -> Move:
    if event in (Event.ACKED, Event.CANCELLED, Event.FENCED):
        return Move(None, Effect.NONE)
    return Move(State.FINISHED, Effect.NONE)
