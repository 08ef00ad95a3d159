"""The ledger as simply as it can be said: what Postgres must agree with after every step.

Nothing is counted here: every counter of a job is a sum over its batches, computed when asked. Nothing is guarded by
SQL: a lease is the pair (batch, token), and whoever does not show it changes nothing. Of time there is only whether a
session's is up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

OPEN = ("PENDING", "QUEUED", "LEASED")
ACTIVE = ("PENDING", "RUNNING")


@dataclass(slots=True)
class Batch:
    """A slice of a job."""

    batch_id: int
    first: int
    count: int
    offset: int = 0
    state: str = "PENDING"
    attempt: int = 0
    token: bytes | None = None
    session: UUID | None = None
    failed: int = 0
    truncated: int = 0
    dropped: bool = False
    """Its payload is gone: nobody will ask for it again."""

    @property
    def end(self) -> int:
        """The item after its last."""
        return self.first + self.count

    def succeeded_items(self) -> int:
        """Items with a vector."""
        return self.count - self.failed if self.state in ("COMPLETED", "DELIVERED") else 0

    def failed_items(self) -> int:
        """Items that will never have one."""
        if self.state in ("FAILED", "CANCELLED", "EXPIRED"):
            return self.count
        return self.failed if self.state in ("COMPLETED", "DELIVERED") else 0

    def drop_lease(self, state: str) -> None:
        """Goes on without a lease."""
        self.state, self.token, self.session = state, None, None


@dataclass(slots=True)
class Job:
    """What was accepted."""

    job_id: UUID
    workload: str
    due: bool
    """Its deadline has passed."""
    batches: list[Batch]
    state: str = "PENDING"
    released: int = 0
    in_time: bool = False
    """It was COMPLETED once: what is computed again of it has no deadline."""
    acknowledged: int = 0
    """The reader has everything before it."""

    @property
    def items(self) -> int:
        """How many it has."""
        return sum(b.count for b in self.batches)

    def settle(self) -> None:
        """Its batches have moved: what is done and was acknowledged goes. Is the job done, or not any more?"""
        self.drop_before(self.acknowledged)
        if self.state in ("CANCELLED", "EXPIRED"):
            return
        if all(b.state not in OPEN for b in self.batches):
            self.state = "COMPLETED"
        elif self.state == "COMPLETED":
            self.state, self.in_time = "RUNNING", True

    def drop_before(self, item: int) -> None:
        """What is done and lies before an item goes."""
        for batch in self.batches:
            if batch.state not in OPEN and batch.end <= item:
                batch.state = "DELIVERED" if batch.state == "COMPLETED" else batch.state
                batch.dropped = True
        if item:
            self.released = min((b.first for b in self.batches if not b.dropped), default=self.items)

    def end(self, state: str) -> list[bytes]:
        """Ends what is left of it; returns the tokens that are void now."""
        void = [b.token for b in self.batches if b.token is not None]
        for batch in self.batches:
            if batch.state in OPEN:
                batch.drop_lease(state)
        self.state = state
        self.drop_before(self.acknowledged)
        return void


@dataclass(slots=True)
class Session:
    """One life of a worker's stream."""

    worker: UUID
    state: str = "OPEN"
    over: bool = False
    """Its time is up."""


@dataclass(slots=True)
class Model:
    """All of it."""

    jobs: dict[UUID, Job] = field(default_factory=dict)
    sessions: dict[UUID, Session] = field(default_factory=dict)

    def batches(self) -> list[Batch]:
        """Every batch, in no order that matters."""
        return [b for j in self.jobs.values() for b in j.batches]

    def _job_of(self, batch: Batch) -> Job:
        return next(j for j in self.jobs.values() if batch in j.batches)

    def _holders(self, leases: Iterable[tuple[int, bytes]]) -> list[Batch]:
        shown = set(leases)
        return [b for b in self.batches() if (b.batch_id, b.token) in shown]

    def feed(self, job_id: UUID, number: int) -> list[int]:
        """The first waiting batches get an entry."""
        waiting = sorted((b for b in self.jobs[job_id].batches if b.state == "PENDING"), key=lambda b: b.first)
        for batch in waiting[:number]:
            batch.state = "QUEUED"
        return [b.batch_id for b in waiting[:number]]

    def claim(self, claims: Sequence[tuple[int, bytes, UUID]]) -> set[tuple[int, bytes, int]]:
        """Leases of open sessions, once or again; returns (batch, token, attempt)."""
        taken = set()
        for batch_id, token, session in claims:
            for batch in self.batches():
                free = batch.state == "QUEUED" or batch.token == token
                if batch.batch_id != batch_id or not free or self.sessions[session].state != "OPEN":
                    continue
                batch.attempt += batch.state == "QUEUED"
                batch.state, batch.token, batch.session = "LEASED", token, session
                taken.add((batch_id, token, batch.attempt))
        return taken

    def complete(self, leases: Iterable[tuple[int, bytes]], failed: int, truncated: int) -> set[int]:
        """Outcomes; returns the batches that took theirs."""
        done = self._holders(leases)
        for batch in done:
            batch.drop_lease("COMPLETED")
            batch.failed, batch.truncated = min(failed, batch.count), min(truncated, batch.count)
            self._job_of(batch).settle()
        return {b.batch_id for b in done}

    def retry(self, leases: Iterable[tuple[int, bytes]], *, counts: bool) -> set[int]:
        """Once more; returns the batches that wait again."""
        held = self._holders(leases)
        for batch in held:
            batch.drop_lease("PENDING")
            batch.attempt -= not counts
        return {b.batch_id for b in held}

    def split(self, leases: Iterable[tuple[int, bytes]]) -> set[int]:
        """Batches of more than one item become two; the second has no id before the ledger gave it one."""
        held = [b for b in self._holders(leases) if b.count > 1]
        for batch in held:
            first = batch.count // 2
            half = Batch(0, batch.first + first, batch.count - first, batch.offset + first)
            batch.drop_lease("PENDING")
            batch.count, batch.attempt = first, 0
            self._job_of(batch).batches.append(half)
        return {b.batch_id for b in held}

    def give_up(self, leases: Iterable[tuple[int, bytes]]) -> set[int]:
        """No more attempts; returns the batches that failed."""
        held = self._holders(leases)
        for batch in held:
            batch.drop_lease("FAILED")
            self._job_of(batch).settle()
        return {b.batch_id for b in held}

    def give_up_waiting(self, workload: str) -> set[UUID]:
        """Nobody can serve it; returns the jobs that lost batches."""
        changed = set()
        for job in self.jobs.values():
            waiting = [b for b in job.batches if b.state in ("PENDING", "QUEUED")]
            if job.workload == workload and waiting:
                for batch in waiting:
                    batch.state = "FAILED"
                job.settle()
                changed.add(job.job_id)
        return changed

    def unqueue(self, batch_ids: Iterable[int]) -> int:
        """Their entries are gone; returns how many wait again."""
        queued = [b for b in self.batches() if b.batch_id in set(batch_ids) and b.state == "QUEUED"]
        for batch in queued:
            batch.state = "PENDING"
        return len(queued)

    def recompute(self, job_id: UUID, batch_ids: Iterable[int]) -> int:
        """Their results are gone; what belongs to an ended job ends like it. Returns how many moved."""
        job = self.jobs[job_id]
        lost = [b for b in job.batches if b.batch_id in set(batch_ids) and b.state == "COMPLETED"]
        for batch in lost:
            batch.failed = batch.truncated = 0
            if job.state in ("CANCELLED", "EXPIRED"):
                batch.state = job.state
            else:
                batch.state, batch.attempt = "PENDING", 0
        job.settle()
        return len(lost)

    def requeue(self, batch_id: int) -> str | None:
        """An operator wants a failed batch to run again; returns why it may not."""
        batch = next(b for b in self.batches() if b.batch_id == batch_id)
        job = self._job_of(batch)
        if batch.state != "FAILED":
            return "BATCH_NOT_FAILED"
        if job.due or job.state in ("CANCELLED", "EXPIRED"):
            return "JOB_ENDED"
        if batch.dropped:
            return "RESULTS_RELEASED"
        batch.state, batch.attempt = "PENDING", 0
        job.settle()
        return None

    def start(self, job_id: UUID) -> None:
        """Its first batch was leased."""
        job = self.jobs[job_id]
        if job.state == "PENDING":
            job.state = "RUNNING"

    def cancel(self, job_id: UUID) -> list[bytes]:
        """Returns the tokens that are void now."""
        job = self.jobs[job_id]
        return job.end("CANCELLED") if job.state in ACTIVE else []

    def expire_due(self) -> dict[UUID, list[bytes]]:
        """Deadlines that have passed; returns the void tokens by job."""
        due = [j for j in self.jobs.values() if j.due and not j.in_time and j.state in ACTIVE]
        return {j.job_id: j.end("EXPIRED") for j in due}

    def release(self, job_id: UUID, before: int) -> int:
        """The reader has everything before an item; returns the first item that it may still ask for."""
        job = self.jobs[job_id]
        if before <= job.released:
            return job.released
        job.acknowledged = max(job.acknowledged, before)
        job.drop_before(before)
        return job.released

    def open(
        self, session: UUID, worker: UUID, in_hand: Iterable[tuple[int, bytes]]
    ) -> tuple[set[tuple[int, bytes]], set[UUID]]:
        """A new life of a worker; returns what it goes on with, and its earlier lives."""
        superseded = {s for s, one in self.sessions.items() if one.worker == worker and one.state != "ENDED"}
        for one in superseded:
            self.sessions[one].state = "ENDED"
        self.sessions[session] = Session(worker)
        resumed = self._holders(in_hand)
        for batch in resumed:
            batch.session = session
        return {(b.batch_id, b.token) for b in resumed if b.token is not None}, superseded

    def renew(self, sessions: Iterable[UUID]) -> set[UUID]:
        """Those that are open."""
        return {s for s in sessions if self.sessions[s].state == "OPEN"}

    def mark_broken(self, session: UUID, *, over: bool) -> None:
        """Its stream broke; its grace is long, or over at once."""
        if self.sessions[session].state == "OPEN":
            self.sessions[session].state, self.sessions[session].over = "BROKEN", over

    def end(self, session: UUID) -> None:
        """It said Goodbye."""
        self.sessions[session].state = "ENDED"

    def end_expired(self) -> set[UUID]:
        """Sessions whose time is up end; returns them, and ended ones that still hold leases."""
        over = {s for s, one in self.sessions.items() if one.state != "ENDED" and one.over}
        for session in over:
            self.sessions[session].state = "ENDED"
        held = {b.session for b in self.batches() if b.session is not None}
        return over | {s for s in held if self.sessions[s].state == "ENDED"}

    def leases_of(self, sessions: Iterable[UUID]) -> set[tuple[int, bytes]]:
        """What these sessions hold."""
        chosen = set(sessions)
        return {(b.batch_id, b.token) for b in self.batches() if b.session in chosen and b.token is not None}
