"""The verdict over a history: every accepted item exactly once, its own vector or one justified error. Pure.

Each function returns what is wrong, in words; nothing wrong is an empty list. The ledger's rows are those after the
run, and what they say has to fit what the clients saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.nemesis.history import History, JobRow, Piece, Reading, Submission, by_request

FINAL = frozenset({"COMPLETED", "CANCELLED", "EXPIRED"})
MAX_ATTEMPTS = 5
_ENDED_LIKE_THEIR_JOB = {"CANCELLED": "CANCELLED", "DEADLINE_EXCEEDED": "EXPIRED"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was done to the system that may justify a failure."""

    executor_kills: int = 0
    """Executors that died or were stopped, alone or with their worker."""


def violations(history: History, rows: Sequence[JobRow], evidence: Evidence) -> list[str]:
    """All that is wrong with what readers saw; `rows` are the jobs of their app."""
    jobs = by_request(rows)
    found = _strangers(history, rows)
    for submission in history.submissions:
        found += [f"request {submission.request_id}: {c}" for c in submission.complaints]
        mine = jobs.get(submission.request_id, [])
        found += identity(submission, mine)
        if submission.jobs and mine:
            found += _outcome(submission, mine[0], evidence)
    return found


def _strangers(history: History, rows: Sequence[JobRow]) -> list[str]:
    known = {s.request_id for s in history.submissions}
    return [f"job {r.job_id}: nobody asked for request {r.request_id}" for r in rows if r.request_id not in known]


def identity(submission: Submission, mine: Sequence[JobRow]) -> list[str]:
    """One request, one job, and the one that the client was told."""
    name = f"request {submission.request_id}"
    found = []
    if len(set(submission.jobs)) > 1:
        found.append(f"{name}: answered with several jobs: {sorted(set(submission.jobs))}")
    if len(mine) > 1:
        found.append(f"{name}: {len(mine)} jobs in the ledger")
    if submission.jobs and not mine:
        found.append(f"{name}: job {submission.job_id} was accepted and is not in the ledger")
    if submission.jobs and mine and mine[0].job_id != submission.job_id:
        found.append(f"{name}: told job {submission.job_id}, the ledger has {mine[0].job_id}")
    for row in mine:
        if row.item_count != submission.item_count:
            found.append(f"{name}: {submission.item_count} items submitted, the ledger has {row.item_count}")
        if row.state not in FINAL:
            found.append(f"job {row.job_id} is stuck in {row.state}")
    return found


def justified_end(submission: Submission, row: JobRow) -> list[str]:
    """Ended as somebody wanted, and released when all was acknowledged."""
    name = f"job {row.job_id}"
    found = []
    if row.state == "CANCELLED" and not submission.cancel_tried:
        found.append(f"{name} is CANCELLED and nobody cancelled it")
    if row.state == "EXPIRED" and submission.window_s is None:
        found.append(f"{name} is EXPIRED and had no completion window")
    if row.items_released < row.item_count:
        found.append(f"{name}: {row.items_released} of {row.item_count} items released, all were acknowledged")
    return found


def _outcome(submission: Submission, row: JobRow, evidence: Evidence) -> list[str]:
    name = f"job {row.job_id}"
    found = justified_end(submission, row)
    if submission.watched_states and submission.watched_states[-1] not in FINAL:
        found.append(f"{name}: its watch ended with {submission.watched_states[-1]}")
    expected = submission.expected()
    seen = [False] * submission.item_count
    for reading in submission.readings:
        found += _order(name, submission, reading)
        for piece in reading.pieces:
            where = f"{name}, reader {reading.reader}"
            found += wrong_piece(where, submission, row, piece, expected, evidence)
            end = min(piece.first_item + piece.item_count, submission.item_count)
            seen[piece.first_item : end] = [True] * (end - piece.first_item)
    missing = seen.count(False)
    if missing:
        found.append(
            f"{name}: {missing} of {submission.item_count} items never delivered, the first {seen.index(False)}"
        )
    return found


def _order(name: str, submission: Submission, reading: Reading) -> list[str]:
    """A reader gets each item once, in order, and all of them when it saw the end."""
    place, found = reading.start, []
    for piece in reading.pieces:
        if piece.first_item < place:
            found.append(f"{name}, reader {reading.reader}: item {piece.first_item} again after {place - 1}")
        elif piece.first_item > place:
            found.append(f"{name}, reader {reading.reader}: items {place} to {piece.first_item - 1} skipped")
        place = piece.first_item + piece.item_count
    if reading.ended and place != submission.item_count:
        found.append(f"{name}, reader {reading.reader}: ended at item {place} of {submission.item_count}")
    return found


def wrong_piece(
    where: str, submission: Submission, row: JobRow, piece: Piece, expected: Sequence[bytes], evidence: Evidence
) -> list[str]:
    """Items that are not there, vectors that are not their item's own, errors without a justification."""
    items = range(piece.first_item, piece.first_item + piece.item_count)
    if items.stop > submission.item_count:
        return [f"{where}: items up to {items.stop - 1}, the job has {submission.item_count}"]
    good = [i for i in items if i not in piece.errors]
    if len(good) != len(piece.rows):
        return [f"{where}: {len(piece.rows)} vectors for {len(good)} items from {piece.first_item} on"]
    wrong = [i for i, vector in zip(good, piece.rows, strict=True) if vector != expected[i]]
    found = [f"{where}: {len(wrong)} items with another vector than their own, the first {wrong[0]}"] if wrong else []
    for reason in sorted(set(piece.errors.values())):
        unjust = [i for i, r in piece.errors.items() if r == reason and not _just(submission, row, i, r, evidence)]
        if unjust:
            batch = row.batch_of(unjust[0])
            found.append(
                f"{where}: {len(unjust)} items with {reason}, the first {unjust[0]}, unjustly; its batch: {batch}"
            )
    return found


def _just(submission: Submission, row: JobRow, item: int, reason: str, evidence: Evidence) -> bool:
    """Whether the error may be: somebody wanted it, or the batch's budget is really spent."""
    batch = row.batch_of(item)
    if batch is not None and batch.reason != reason:
        return False
    if reason in _ENDED_LIKE_THEIR_JOB:
        state = _ENDED_LIKE_THEIR_JOB[reason]
        wanted = submission.cancel_tried if reason == "CANCELLED" else submission.window_s is not None
        # Once its batches are archived, only the job itself tells.
        return wanted and row.state == state and (row.archived if batch is None else batch.state == state)
    if batch is None or batch.state != "FAILED":
        return False
    if reason == "WORKER_LOST":
        return batch.attempt >= MAX_ATTEMPTS
    if reason in ("EXECUTOR_CRASHED", "EXECUTOR_HUNG"):
        # Only an item that stood alone when its executor died or stood still, twice.
        return batch.item_count == 1 and evidence.executor_kills >= 2
    return False
