"""The verdict refuses every history that is not right: each test spoils a good one in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.nemesis import verdict
from tests.faults.nemesis.history import BatchRow, History, JobRow, Piece, Reading, Submission

NONE = verdict.Evidence()


def submission(**changes: object) -> Submission:
    """Ten items in two batches, read once to the end."""
    made = Submission("request", "hash-8", 8, "text", 10, jobs=["job"])
    vectors = made.expected()
    first = Piece(0, 6, tuple(vectors[:6]), {})
    second = Piece(6, 4, tuple(vectors[6:]), {})
    made.readings = [Reading("reader", 0, [first, second], ended=True)]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def row(*, state: str = "COMPLETED", failed: BatchRow | None = None, **changes: object) -> JobRow:
    """What the ledger says of it."""
    second = failed or BatchRow(6, 4, "COMPLETED", 1, None)
    made = JobRow("job", "request", state, 10, 10, 0, 10, (BatchRow(0, 6, "DELIVERED", 1, None), second))
    return replace(made, **changes)  # type: ignore[arg-type]


def judge(one: Submission, *rows: JobRow, evidence: verdict.Evidence = NONE) -> list[str]:
    return verdict.violations(History([one]), rows or (row(),), evidence)


def failing(reason: str) -> Submission:
    """As `submission`, but its second batch gave errors."""
    made = submission()
    made.readings[0].pieces[1] = Piece(6, 4, (), dict.fromkeys(range(6, 10), reason))
    return made


def test_a_good_history_passes() -> None:
    assert judge(submission()) == []


def lose_an_item(one: Submission) -> None:
    piece = one.readings[0].pieces[1]
    one.readings[0].pieces[1] = Piece(6, 3, piece.rows[:3], {})


def lose_a_piece_in_the_middle(one: Submission) -> None:
    del one.readings[0].pieces[0]


def deliver_twice(one: Submission) -> None:
    one.readings[0].pieces.append(one.readings[0].pieces[1])


def swap_two_vectors(one: Submission) -> None:
    piece = one.readings[0].pieces[0]
    rows = (piece.rows[1], piece.rows[0], *piece.rows[2:])
    one.readings[0].pieces[0] = Piece(0, 6, rows, {})


def give_fewer_vectors_than_items(one: Submission) -> None:
    piece = one.readings[0].pieces[0]
    one.readings[0].pieces[0] = Piece(0, 6, piece.rows[:5], {})


def read_more_than_there_is(one: Submission) -> None:
    one.readings[0].pieces.append(Piece(10, 1, (b"more",), {}))


def never_read(one: Submission) -> None:
    one.readings = []


def answer_with_two_jobs(one: Submission) -> None:
    one.jobs.append("another job")


def raise_an_error(one: Submission) -> None:
    one.complaints.append("reading: ProtocolError")


def fail_without_a_reason(one: Submission) -> None:
    one.readings[0].pieces[1] = Piece(6, 4, (), dict.fromkeys(range(6, 10), "INTERNAL"))


def watch_without_an_end(one: Submission) -> None:
    one.watched_states = ["PENDING", "RUNNING"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_an_item, "1 of 10 items never delivered"),
        (lose_a_piece_in_the_middle, "items 0 to 5 skipped"),
        (deliver_twice, "item 6 again"),
        (swap_two_vectors, "2 items with another vector"),
        (give_fewer_vectors_than_items, "5 vectors for 6 items"),
        (read_more_than_there_is, "the job has 10"),
        (never_read, "10 of 10 items never delivered"),
        (answer_with_two_jobs, "several jobs"),
        (raise_an_error, "ProtocolError"),
        (fail_without_a_reason, "4 items with INTERNAL"),
        (watch_without_an_end, "watch ended with RUNNING"),
    ],
)
def test_a_spoilt_history_is_refused(spoil: Callable[[Submission], None], words: str) -> None:
    spoilt = submission()
    spoil(spoilt)
    assert any(words in found for found in judge(spoilt)), judge(spoilt)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "is not in the ledger"),
        ((row(), row(job_id="twin")), "2 jobs in the ledger"),
        ((row(job_id="other"),), "the ledger has other"),
        ((row(state="RUNNING"),), "stuck in RUNNING"),
        ((row(items_released=6),), "6 of 10 items released"),
        ((row(item_count=9),), "the ledger has 9"),
        ((row(state="CANCELLED"),), "nobody cancelled it"),
        ((row(state="EXPIRED"),), "no completion window"),
        ((row(), row(job_id="x", request_id="y")), "nobody asked for request y"),
    ],
)
def test_a_ledger_that_does_not_fit_is_refused(rows: tuple[JobRow, ...], words: str) -> None:
    found = verdict.violations(History([submission()]), rows, NONE)
    assert any(words in one for one in found), found


@pytest.mark.parametrize(
    ("reason", "batch", "state", "wanted", "kills", "just"),
    [
        ("CANCELLED", BatchRow(6, 4, "CANCELLED", 1, "CANCELLED"), "CANCELLED", {"cancel_tried": True}, 0, True),
        ("CANCELLED", BatchRow(6, 4, "CANCELLED", 1, "CANCELLED"), "CANCELLED", {}, 0, False),
        ("DEADLINE_EXCEEDED", BatchRow(6, 4, "EXPIRED", 1, "DEADLINE_EXCEEDED"), "EXPIRED", {"window_s": 1.0}, 0, True),
        ("DEADLINE_EXCEEDED", BatchRow(6, 4, "EXPIRED", 1, "DEADLINE_EXCEEDED"), "EXPIRED", {}, 0, False),
        ("WORKER_LOST", BatchRow(6, 4, "FAILED", 5, "WORKER_LOST"), "COMPLETED", {}, 0, True),
        ("WORKER_LOST", BatchRow(6, 4, "FAILED", 4, "WORKER_LOST"), "COMPLETED", {}, 0, False),
        ("WORKER_LOST", BatchRow(6, 4, "COMPLETED", 5, None), "COMPLETED", {}, 0, False),
        ("EXECUTOR_CRASHED", BatchRow(6, 4, "FAILED", 2, "EXECUTOR_CRASHED"), "COMPLETED", {}, 9, False),
        ("MODEL_UNAVAILABLE", BatchRow(6, 4, "FAILED", 2, "MODEL_UNAVAILABLE"), "COMPLETED", {}, 9, False),
    ],
)
def test_an_error_needs_its_justification(
    reason: str, batch: BatchRow, state: str, wanted: dict[str, object], kills: int, just: bool
) -> None:
    one = failing(reason)
    for name, value in wanted.items():
        setattr(one, name, value)
    found = judge(one, row(state=state, failed=batch), evidence=verdict.Evidence(executor_kills=kills))
    assert (found == []) is just, found


@pytest.mark.parametrize(("cancel_tried", "state"), [(True, "CANCELLED"), (False, "CANCELLED"), (True, "COMPLETED")])
def test_an_archived_job_tells_by_itself_that_it_was_cancelled(cancel_tried: bool, state: str) -> None:
    one = failing("CANCELLED")
    one.cancel_tried = cancel_tried
    found = judge(one, row(state=state, batches=(), archived=True))
    assert (found == []) is (cancel_tried and state == "CANCELLED"), found
    assert judge(one, row(state=state, batches=(), archived=False)) != []


def test_a_crash_may_be_told_of_one_item_only_and_only_after_two_kills() -> None:
    one = submission()
    rows = one.readings[0].pieces[1].rows
    one.readings[0].pieces[1] = Piece(6, 4, rows[:3], {9: "EXECUTOR_CRASHED"})
    alone = BatchRow(9, 1, "FAILED", 2, "EXECUTOR_CRASHED")
    batches = (BatchRow(0, 6, "COMPLETED", 1, None), BatchRow(6, 3, "COMPLETED", 1, None), alone)
    assert judge(one, row(batches=batches), evidence=verdict.Evidence(executor_kills=2)) == []
    assert judge(one, row(batches=batches), evidence=verdict.Evidence(executor_kills=1)) != []


def test_a_reader_that_came_back_with_its_cursor_gets_the_rest_only() -> None:
    one = submission()
    first, second = one.readings[0].pieces
    one.readings = [Reading("parts", 0, [first]), Reading("last look", 6, [second], ended=True)]
    assert judge(one) == []
    one.readings[1].start = 5
    assert any("items 5 to 5 skipped" in found for found in judge(one))
