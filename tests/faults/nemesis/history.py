"""What the clients saw. Only facts: the verdict is drawn elsewhere, and can be tested with histories made up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from podium_client import ResultChunk
from podium_worker.adapters.hash_backend import hash_vectors


def digest(row: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """Stands for a vector: its bytes, hashed."""
    return hashlib.blake2b(row.tobytes(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as the SDK gave it: digests of the rows of those items that have no error, in order."""

    first_item: int
    item_count: int
    rows: tuple[bytes, ...]
    errors: Mapping[int, str]

    @classmethod
    def of(cls, chunk: ResultChunk) -> Piece:
        """From the SDK's chunk."""
        rows = tuple(digest(row) for row in chunk.vectors)
        return cls(chunk.first_item, chunk.item_count, rows, {e.index: e.reason for e in chunk.errors})


@dataclass(slots=True)
class Reading:
    """One reader of one job, over all its connections and resumptions, from `start` on. `ended`: it saw the end."""

    reader: str
    start: int = 0
    pieces: list[Piece] = field(default_factory=list)
    ended: bool = False
    cursor: str = ""
    """Of the last chunk."""

    @property
    def place(self) -> int:
        """The item after the last that it got."""
        last = self.pieces[-1] if self.pieces else None
        return self.start if last is None else last.first_item + last.item_count


@dataclass(slots=True)
class Submission:
    """One request id and all that was done about it."""

    request_id: str
    workload: str
    dimension: int
    prefix: str
    item_count: int
    window_s: float | None = None
    jobs: list[str] = field(default_factory=list)
    """The job of every answer; all must be the same."""
    readings: list[Reading] = field(default_factory=list)
    cancel_tried: bool = False
    watched_states: list[str] = field(default_factory=list)
    cursor: str = ""
    """The last that was given to the service as acknowledged."""
    read_up_to: int = 0
    """Items before that cursor."""
    complaints: list[str] = field(default_factory=list)
    """Errors that the SDK must not have raised."""

    def furthest(self) -> tuple[str, int]:
        """The cursor of the reader that came furthest, and the items before it."""
        cursors = {r.place: r.cursor for r in self.readings if r.cursor} | {self.read_up_to: self.cursor}
        place = max(cursors)
        return cursors[place], place

    @property
    def job_id(self) -> str | None:
        """The job, once an answer came."""
        return self.jobs[0] if self.jobs else None

    def texts(self) -> list[str]:
        """The inputs; no two submissions share any."""
        return [f"{self.prefix} {n}" for n in range(self.item_count)]

    def expected(self) -> list[bytes]:
        """The digest of each item's own vector."""
        return [digest(row) for row in hash_vectors([t.encode() for t in self.texts()], self.dimension)]


@dataclass(slots=True)
class History:
    """Everything of a run."""

    submissions: list[Submission] = field(default_factory=list)

    @property
    def accepted(self) -> list[Submission]:
        """Those of which a client knows the job."""
        return [s for s in self.submissions if s.jobs]

    @property
    def items(self) -> int:
        """Items of the accepted jobs."""
        return sum(s.item_count for s in self.accepted)


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch as the ledger tells it after the run."""

    first_item: int
    item_count: int
    state: str
    attempt: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the ledger tells it after the run."""

    job_id: str
    request_id: str
    state: str
    item_count: int
    items_succeeded: int
    items_failed: int
    items_released: int
    batches: tuple[BatchRow, ...]
    archived: bool = False
    """Its batches are gone, but for those that were given up."""

    def batch_of(self, item: int) -> BatchRow | None:
        """The batch that the item belongs to."""
        return next((b for b in self.batches if b.first_item <= item < b.first_item + b.item_count), None)


def by_request(rows: Iterable[JobRow]) -> dict[str, list[JobRow]]:
    """The jobs of each request id; more than one is a violation."""
    found: dict[str, list[JobRow]] = {}
    for row in rows:
        found.setdefault(row.request_id, []).append(row)
    return found
