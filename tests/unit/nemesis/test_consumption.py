"""The verdict on a consumer group refuses every history that is not right: each test spoils a good one in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.nemesis import consumption
from tests.faults.nemesis.consumption import Acknowledged, Consumption, Drained, Ended, Event, Got, Opened
from tests.faults.nemesis.history import BatchRow, JobRow, Piece, Submission
from tests.faults.nemesis.verdict import Evidence

NONE = Evidence()
JOB = Submission("request", "hash-8", 8, "text", 10, jobs=["job"])
VECTORS = JOB.expected()
FIRST, SECOND = Piece(0, 6, tuple(VECTORS[:6]), {}), Piece(6, 4, tuple(VECTORS[6:]), {})
ROW = JobRow(
    "job", "request", "COMPLETED", 10, 10, 0, 10,
    (BatchRow(0, 6, "DELIVERED", 1, None), BatchRow(6, 4, "DELIVERED", 1, None)),
)  # fmt: skip


def got(sitting: int, piece: Piece) -> Got:
    return Got(sitting, "job", piece)


def end(sitting: int, state: str = "COMPLETED") -> Ended:
    return Ended(sitting, "job", state)


def good() -> list[Event]:
    """Two sittings side by side. The first leaves with its batch in hand, which comes again to the second."""
    return [
        Opened(0),
        Opened(1),
        got(0, FIRST),
        got(1, SECOND),
        Acknowledged(got(1, SECOND)),
        got(1, FIRST),
        Acknowledged(got(1, FIRST)),
        end(1),
        Acknowledged(end(1)),
        Drained(),
        Opened(2),
    ]


def judge(
    events: list[Event], *rows: JobRow, evidence: Evidence = NONE, complaints: tuple[str, ...] = (), **changes: object
) -> list[str]:
    submission = replace(JOB, **changes)  # type: ignore[arg-type]
    seen = Consumption([submission], events, list(complaints))
    return consumption.violations(seen, rows or (ROW,), evidence)


def test_a_good_history_passes() -> None:
    assert judge(good()) == []
    assert Consumption([JOB], good()).acknowledged_ends == {"job"}


def lose_a_batch(events: list[Event]) -> None:
    del events[3:5]


def lose_the_end(events: list[Event]) -> None:
    del events[7:9]


def end_before_the_last_acknowledgement(events: list[Event]) -> None:
    events.insert(6, events.pop(7))


def end_without_an_acknowledgement(events: list[Event]) -> None:
    del events[4]


def acknowledge_a_part_only(events: list[Event]) -> None:
    events[6] = Acknowledged(got(1, Piece(0, 5, tuple(VECTORS[:5]), {})))


def end_otherwise_than_the_ledger(events: list[Event]) -> None:
    events[7] = end(1, "CANCELLED")


def come_again_after_the_end_by_the_same_sitting(events: list[Event]) -> None:
    events.insert(8, got(1, FIRST))


def come_again_after_the_end_to_one_who_came_later(events: list[Event]) -> None:
    events[9:9] = [Opened(3), got(3, SECOND)]


def come_after_all_was_acknowledged(events: list[Event]) -> None:
    events.append(end(2))


def swap_two_vectors(events: list[Event]) -> None:
    events[2] = got(0, Piece(0, 6, (VECTORS[1], VECTORS[0], *VECTORS[2:6]), {}))


def give_another_batch_s_vectors(events: list[Event]) -> None:
    events[3] = got(1, Piece(6, 4, tuple(VECTORS[:4]), {}))


def give_fewer_vectors_than_items(events: list[Event]) -> None:
    events[2] = got(0, Piece(0, 6, tuple(VECTORS[:5]), {}))


def deliver_more_than_there_is(events: list[Event]) -> None:
    events.insert(3, got(0, Piece(10, 1, (b"more",), {})))


def fail_without_a_reason(events: list[Event]) -> None:
    events[3] = got(1, Piece(6, 4, (), dict.fromkeys(range(6, 10), "INTERNAL")))


def deliver_what_nobody_submitted(events: list[Event]) -> None:
    events.insert(3, Got(0, "another job", FIRST))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_a_batch, "4 of 10 items never consumed, the first 6"),
        (lose_the_end, "its end was never consumed"),
        (end_before_the_last_acknowledgement, "its end came before 6 items were acknowledged, the first 0"),
        (end_without_an_acknowledgement, "its end came before 4 items were acknowledged, the first 6"),
        (acknowledge_a_part_only, "its end came before 1 items were acknowledged, the first 5"),
        (end_otherwise_than_the_ledger, "its end says CANCELLED, the ledger COMPLETED"),
        (come_again_after_the_end_by_the_same_sitting, "sitting 1: item 0 again after the job's end"),
        (come_again_after_the_end_to_one_who_came_later, "sitting 3: item 6 again after the job's end"),
        (come_after_all_was_acknowledged, "sitting 2: delivered after all was acknowledged"),
        (swap_two_vectors, "2 items with another vector"),
        (give_another_batch_s_vectors, "4 items with another vector"),
        (give_fewer_vectors_than_items, "5 vectors for 6 items"),
        (deliver_more_than_there_is, "the job has 10"),
        (fail_without_a_reason, "4 items with INTERNAL"),
        (deliver_what_nobody_submitted, "job another job was delivered and nobody submitted it"),
    ],
)
def test_a_spoilt_history_is_refused(spoil: Callable[[list[Event]], None], words: str) -> None:
    events = good()
    spoil(events)
    assert any(words in found for found in judge(events)), judge(events)


def test_what_may_be_an_echo_or_a_lost_acknowledgement_is_no_violation() -> None:
    events = good()
    # Sitting 0 was open before the end: the network may have kept these bytes.
    events.insert(9, got(0, SECOND))
    assert judge(events) == []
    # The acknowledgement of the end was lost: it comes once more, to somebody else.
    events[10:10] = [Opened(3), end(3), Acknowledged(end(3))]
    assert judge(events) == []
    # An acknowledgement of a batch was lost before the end.
    events.insert(5, got(1, SECOND))
    assert judge(events) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((replace(ROW, request_id="of readers"),), "is not in the ledger"),
        ((ROW, replace(ROW, job_id="twin")), "2 jobs in the ledger"),
        ((replace(ROW, items_released=6),), "6 of 10 items released"),
        ((replace(ROW, state="RUNNING"),), "stuck in RUNNING"),
        ((replace(ROW, state="CANCELLED"),), "nobody cancelled it"),
        ((replace(ROW, state="EXPIRED"),), "no completion window"),
    ],
)
def test_a_ledger_that_does_not_fit_is_refused(rows: tuple[JobRow, ...], words: str) -> None:
    assert any(words in found for found in judge(good(), *rows))


@pytest.mark.parametrize(("cancel_tried", "just"), [(True, True), (False, False)])
def test_an_error_needs_its_justification(cancel_tried: bool, just: bool) -> None:
    failed = Piece(6, 4, (), dict.fromkeys(range(6, 10), "CANCELLED"))
    events = [
        replace(e, piece=failed) if isinstance(e, Got) and e.piece is SECOND
        else replace(e, state="CANCELLED") if isinstance(e, Ended) else e
        for e in good()
    ]  # fmt: skip
    batches = (ROW.batches[0], BatchRow(6, 4, "CANCELLED", 1, "CANCELLED"))
    found = judge(events, replace(ROW, state="CANCELLED", batches=batches), cancel_tried=cancel_tried)
    assert (found == []) is just, found


def test_errors_of_the_sdk_are_told() -> None:
    assert any("ProtocolError" in found for found in judge(good(), complaints=("sitting 0: ProtocolError",)))
