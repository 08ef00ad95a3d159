"""The batch state machine."""

from __future__ import annotations

from datetime import timedelta

import pytest

from podium_scheduler.domain import batches
from podium_scheduler.domain.batches import Event, FailureReason, State


def test_every_transition_is_in_the_diagram() -> None:
    diagram = batches.__doc__ or ""
    for (before, event), after in batches.TRANSITIONS.items():
        assert any(line.strip().startswith(f"{before.value} --> {after.value}:") for line in diagram.splitlines()), (
            f"{before} --{event}--> {after} is not drawn"
        )


def test_only_failed_leaves_a_final_state_and_only_by_an_operator() -> None:
    final = batches.WITHOUT_RESULT | {State.DELIVERED}
    assert {(s, e) for s, e in batches.TRANSITIONS if s in final} == {(State.FAILED, Event.REQUEUE)}


@pytest.mark.parametrize("state", sorted(batches.OPEN))
@pytest.mark.parametrize("event", [Event.CANCEL, Event.EXPIRE])
def test_every_open_batch_can_be_ended(state: State, event: Event) -> None:
    assert batches.after(state, event) in batches.WITHOUT_RESULT


def test_a_delivered_batch_is_never_computed_again() -> None:
    for event in Event:
        with pytest.raises(batches.IllegalTransition):
            batches.after(State.DELIVERED, event)


POLICY = batches.RetryPolicy(max_attempts=3, first_delay=timedelta(seconds=1), max_delay=timedelta(seconds=3))


def failure(attempt: int, *, retryable: bool = True, handed_back: bool = False) -> batches.Outcome:
    return batches.after_failure(
        attempt, FailureReason.WORKER_LOST, items=8, retryable=retryable, handed_back=handed_back, policy=POLICY
    )


def test_retries_back_off_until_the_budget_is_spent() -> None:
    assert failure(1) == batches.Retry(timedelta(seconds=1))
    assert failure(2) == batches.Retry(timedelta(seconds=2))
    assert failure(3) == batches.GiveUp(FailureReason.WORKER_LOST)


def test_the_delay_is_bounded() -> None:
    policy = batches.RetryPolicy(max_delay=timedelta(seconds=3))
    assert policy.delay(1_000_000) == timedelta(seconds=3)


def test_what_cannot_be_retried_fails_at_once() -> None:
    assert failure(1, retryable=False) == batches.GiveUp(FailureReason.WORKER_LOST)


def test_a_batch_handed_back_costs_no_attempt_even_the_last() -> None:
    assert failure(3, handed_back=True) == batches.Retry(timedelta(seconds=1), counts=False)


@pytest.mark.parametrize(("items", "halves"), [(2, (1, 1)), (3, (1, 2)), (256, (128, 128))])
def test_a_batch_that_crashed_its_executor_is_halved_whatever_its_attempt(items: int, halves: tuple[int, int]) -> None:
    for attempt in (1, POLICY.max_attempts):
        assert batches.after_crash(attempt, items, POLICY) == batches.Split(*halves)


def test_a_single_item_gets_a_second_attempt_and_then_a_typed_failure() -> None:
    assert batches.after_crash(1, 1, POLICY) == batches.Retry(timedelta(seconds=1))
    for reason, message in batches.POISON.items():
        assert batches.after_crash(2, 1, POLICY, reason) == batches.GiveUp(reason, message)


def test_a_crash_that_cannot_be_retried_or_was_handed_back_halves_nothing() -> None:
    def crash(*, retryable: bool = True, handed_back: bool = False) -> batches.Outcome:
        reason = FailureReason.EXECUTOR_CRASHED
        return batches.after_failure(1, reason, items=8, retryable=retryable, handed_back=handed_back, policy=POLICY)

    assert crash() == batches.Split(4, 4)
    assert crash(retryable=False) == batches.GiveUp(FailureReason.EXECUTOR_CRASHED)
    assert crash(handed_back=True) == batches.Retry(timedelta(seconds=1), counts=False)
