"""The state machine of a batch in hand."""

from __future__ import annotations

import pytest

from podium_worker.domain.batches import Effect, Event, Move, State, advance

WORKING = (State.RECEIVED, State.PREPARING, State.COMPUTING)


def test_the_way_of_a_good_batch() -> None:
    state: State | None = State.RECEIVED
    for event, expected, effect in (
        (Event.PREPARE_STARTED, State.PREPARING, Effect.NONE),
        (Event.COMPUTE_STARTED, State.COMPUTING, Effect.NONE),
        (Event.RESULT_READY, State.FINISHED, Effect.SEND_RESULT),
        (Event.ACKED, None, Effect.NONE),
    ):
        assert state is not None
        move = advance(state, event)
        assert move == Move(expected, effect)
        state = move.state


@pytest.mark.parametrize(
    ("state", "effect"),
    [
        (State.RECEIVED, Effect.HAND_BACK),
        (State.PREPARING, Effect.REPORT_CRASH),
        (State.COMPUTING, Effect.REPORT_CRASH),
    ],
)
def test_a_lost_executor_blames_only_what_it_worked_on(state: State, effect: Effect) -> None:
    assert advance(state, Event.EXECUTOR_LOST) == Move(None, effect)


@pytest.mark.parametrize("event", [Event.EXECUTOR_LOST, Event.HANDED_BACK, Event.FAILED, Event.RESULT_READY])
def test_a_finished_batch_waits_for_its_ack(event: Event) -> None:
    assert advance(State.FINISHED, event) == Move(State.FINISHED, Effect.NONE)


@pytest.mark.parametrize("state", WORKING)
@pytest.mark.parametrize(
    ("event", "effect"),
    [
        (Event.CANCELLED, Effect.STOP_WORK),
        (Event.FENCED, Effect.STOP_WORK),
        (Event.ACKED, Effect.STOP_WORK),
        (Event.FAILED, Effect.REPORT_FAILURE),
        (Event.HANDED_BACK, Effect.HAND_BACK),
    ],
)
def test_what_ends_the_work(state: State, event: Event, effect: Effect) -> None:
    assert advance(state, event) == Move(None, effect)


def test_a_late_start_changes_nothing() -> None:
    assert advance(State.COMPUTING, Event.PREPARE_STARTED) == Move(State.COMPUTING, Effect.NONE)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_has_a_move(state: State, event: Event) -> None:
    move = advance(state, event)
    assert move.state is None or isinstance(move.state, State)
