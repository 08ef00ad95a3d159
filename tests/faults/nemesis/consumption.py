"""What a consumer group got, and the verdict on it: at least once, right each time, the job's end last. Pure.

Events have one order, that of the client process which saw them all. An acknowledgement is asked for and never
answered, so that one of them was durable is known from two facts only: the end of its job came, which the ledger gives
out when nothing else of the job is left to acknowledge, and the ledger was seen without any delivery. After either,
nothing may come again by a sitting (one call of `consume`) that got the end itself or was opened later. Another that
was open before may still be reading bytes that the network kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.faults.nemesis.history import JobRow, Piece, Submission
from tests.faults.nemesis.verdict import Evidence, identity, justified_end, wrong_piece


@dataclass(frozen=True, slots=True)
class Opened:
    """A sitting began."""

    sitting: int


@dataclass(frozen=True, slots=True)
class Got:
    """A delivery of results."""

    sitting: int
    job_id: str
    piece: Piece


@dataclass(frozen=True, slots=True)
class Ended:
    """A delivery of a job in its final state."""

    sitting: int
    job_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The client is about to acknowledge a delivery, which may or may not become durable."""

    of: Got | Ended


@dataclass(frozen=True, slots=True)
class Drained:
    """The ledger had no delivery left, and no job that was not over."""


Event: TypeAlias = Opened | Got | Ended | Acknowledged | Drained


@dataclass(slots=True)
class Consumption:
    """All that one group saw of its app, and what was submitted there."""

    submissions: list[Submission] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors that the SDK must not have raised at a consumer."""

    @property
    def accepted(self) -> list[Submission]:
        """Those of which a client knows the job."""
        return [s for s in self.submissions if s.jobs]

    @property
    def acknowledged_ends(self) -> set[str]:
        """Jobs whose end was acknowledged."""
        return {e.of.job_id for e in self.events if isinstance(e, Acknowledged) and isinstance(e.of, Ended)}


def violations(consumption: Consumption, rows: Sequence[JobRow], evidence: Evidence) -> list[str]:
    """All that is wrong; `rows` are the jobs of all apps."""
    found = [f"consumer: {words}" for words in consumption.complaints]
    mine = {s.request_id: s for s in consumption.submissions}
    jobs: dict[str, list[JobRow]] = {}
    for row in rows:
        if row.request_id in mine:
            jobs.setdefault(row.request_id, []).append(row)
    events = _by_job(consumption.events)
    for submission in consumption.submissions:
        found += [f"request {submission.request_id}: {c}" for c in submission.complaints]
        its_rows = jobs.get(submission.request_id, [])
        found += identity(submission, its_rows)
        if submission.jobs and its_rows:
            its_events = events.pop(its_rows[0].job_id, [])
            found += _outcome(submission, its_rows[0], its_events, evidence)
    found += [f"job {job_id} was delivered and nobody submitted it" for job_id in events]
    return found + _again(consumption.events)


def _by_job(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each job in their order."""
    found: dict[str, list[Event]] = {}
    for event in events:
        match event:
            case Got(job_id=job_id) | Ended(job_id=job_id) | Acknowledged(Got(job_id=job_id) | Ended(job_id=job_id)):
                found.setdefault(job_id, []).append(event)
    return found


def _outcome(submission: Submission, row: JobRow, events: Sequence[Event], evidence: Evidence) -> list[str]:
    name = f"job {row.job_id}"
    found = justified_end(submission, row)
    expected = submission.expected()
    delivered, acknowledged = _Items(submission.item_count), _Items(submission.item_count)
    ends = 0
    for event in events:
        match event:
            case Got(sitting, _, piece):
                found += wrong_piece(f"{name}, sitting {sitting}", submission, row, piece, expected, evidence)
                delivered.add(piece)
            case Acknowledged(Got(piece=piece)):
                acknowledged.add(piece)
            case Ended(sitting, _, state):
                ends += 1
                if state != row.state:
                    found.append(f"{name}, sitting {sitting}: its end says {state}, the ledger {row.state}")
                if missing := acknowledged.missing:
                    found.append(
                        f"{name}, sitting {sitting}: its end came before {len(missing)} items were acknowledged,"
                        f" the first {missing[0]}"
                    )
    if missing := delivered.missing:
        found.append(f"{name}: {len(missing)} of {row.item_count} items never consumed, the first {missing[0]}")
    if not ends:
        found.append(f"{name}: its end was never consumed")
    return found


class _Items:
    """Items of a job that something has happened to."""

    def __init__(self, count: int) -> None:
        self._seen = [False] * count

    def add(self, piece: Piece) -> None:
        """What lies outside of the job is for others to say."""
        end = min(piece.first_item + piece.item_count, len(self._seen))
        self._seen[piece.first_item : end] = [True] * max(0, end - piece.first_item)

    @property
    def missing(self) -> list[int]:
        """The others."""
        return [item for item, seen in enumerate(self._seen) if not seen]


def _again(events: Sequence[Event]) -> list[str]:
    """Deliveries of what the group had durably acknowledged before."""
    opened: dict[int, int] = {}
    ended: dict[str, list[tuple[int, int]]] = {}
    drained: int | None = None
    found = []
    for place, event in enumerate(events):
        match event:
            case Opened(sitting):
                opened[sitting] = place
            case Drained():
                drained = place if drained is None else drained
            case Got(sitting, job_id, piece):
                began = opened[sitting]
                if any(by == sitting or at < began for by, at in ended.get(job_id, ())):
                    found.append(f"job {job_id}, sitting {sitting}: item {piece.first_item} again after the job's end")
            case Ended(sitting, job_id):
                ended.setdefault(job_id, []).append((sitting, place))
        if isinstance(event, Got | Ended) and drained is not None and drained < opened[event.sitting]:
            found.append(f"job {event.job_id}, sitting {event.sitting}: delivered after all was acknowledged")
    return found
