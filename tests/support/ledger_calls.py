"""Calls to the ledger in Postgres, each made to `tests.support.ledger_model` too: what they answer is the same.

After every step all rows agree with the model, and the rows by themselves are sound: batches tile their job, counters
are sums over batches, and no lease ever gets a second outcome.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import text

from podium_scheduler.adapters.sql import (
    batch_ledger,
    database,
    feed_ledger,
    job_ledger,
    requeue_ledger,
    session_ledger,
)
from podium_scheduler.app import feeding, records
from podium_scheduler.domain import batches
from tests.support.ledger_model import OPEN, Batch, Job, Model

T = TypeVar("T")
LONG = timedelta(days=7)
AT_ONCE = timedelta(0)
WORKLOADS = ("a", "b")
WORKERS = [UUID(int=n) for n in (1, 2, 3)]

_BATCHES = text("""
    SELECT job_id, batch_id, first_item, item_count, payload_offset, state, attempt, lease_token, session_id,
        items_succeeded, items_failed, items_truncated, payload FROM batches ORDER BY job_id, first_item
""")
_JOBS = text("SELECT * FROM jobs ORDER BY job_id")
_SESSIONS = text("SELECT session_id, worker_id, state FROM sessions")


class Ledger:
    """The ledger under test, on a loop of its own: the state machine itself is no coroutine."""

    def __init__(self, runner: asyncio.Runner, url: str) -> None:
        self._runner = runner
        self.pool = database.Database(url, pool_size=1)
        self.jobs = job_ledger.JobLedger(self.pool)
        self.batches = batch_ledger.BatchLedger(self.pool, LONG)
        self.feeds = feed_ledger.FeedLedger(self.pool)
        self.sessions = session_ledger.SessionLedger(self.pool, LONG)
        self.failed = requeue_ledger.RequeueLedger(self.pool, LONG)

    def do(self, call: Awaitable[T]) -> T:
        """Waits for one call."""

        async def waited() -> T:
            return await call

        return self._runner.run(waited())

    async def rows(self) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Everything there is: jobs, batches, sessions."""
        async with self.pool.transaction() as connection:
            return (
                (await connection.execute(_JOBS)).all(),
                (await connection.execute(_BATCHES)).all(),
                (await connection.execute(_SESSIONS)).all(),
            )

    async def empty(self) -> None:
        """Forgets all."""
        async with self.pool.transaction() as connection:
            await connection.execute(text("DELETE FROM jobs"))
            await connection.execute(text("DELETE FROM sessions"))


class Calls(RuleBasedStateMachine):
    """Each call is made to the ledger and to the model, and what they answer is the same."""

    ledger: ClassVar[Ledger]

    def __init__(self) -> None:
        super().__init__()
        self.ledger.do(self.ledger.empty())
        self.model = Model()
        self.numbers = itertools.count(1)
        self.requests: list[tuple[UUID, records.NewJob]] = []
        self.issued: list[tuple[int, bytes]] = []
        """Every lease there ever was."""
        self.ended: set[bytes] = set()
        """Tokens whose attempt has had its outcome."""

    # --- choosing -----------------------------------------------------------------------------------------

    def job(self, pick: int) -> Job:
        return list(self.model.jobs.values())[pick % len(self.model.jobs)]

    def some_batches(self, picks: Sequence[int], *states: str) -> list[Batch]:
        """Batches in one of the states, or any when there is none."""
        found = sorted(self.model.batches(), key=lambda b: b.batch_id)
        found = [b for b in found if b.state in states] or found
        return list({b.batch_id: b for b in (found[p % len(found)] for p in picks)}.values())

    def leases(self, picks: Sequence[int], *, old: bool) -> list[tuple[int, bytes]]:
        """Leases that hold, or, with `old`, any that were ever written."""
        held = sorted((b.batch_id, b.token) for b in self.model.batches() if b.token is not None)
        among = self.issued if old or not held else held
        return list(dict.fromkeys(among[p % len(among)] for p in picks))

    def session(self, pick: int) -> UUID:
        return list(self.model.sessions)[pick % len(self.model.sessions)]

    def job_id_of(self, batch_id: int) -> UUID:
        return next(j.job_id for j in self.model.jobs.values() for b in j.batches if b.batch_id == batch_id)

    # --- jobs ---------------------------------------------------------------------------------------------

    def admit(self, sizes: Sequence[int], workload: str, *, due: bool = False) -> None:
        job_id, request_id = UUID(int=next(self.numbers)), UUID(int=next(self.numbers))
        firsts = [sum(sizes[:n]) for n in range(len(sizes))]
        new = records.NewJob(
            "default", request_id, b"digest", workload, 1, 3, {}, b"", AT_ONCE if due else None, "",
            tuple(records.NewBatch(first, size, b"payload", 1) for first, size in zip(firsts, sizes, strict=True)),
        )  # fmt: skip
        job, existed = self.ledger.do(self.ledger.jobs.admit(job_id, new))
        assert (job.job_id, existed) == (job_id, False)
        made = [Batch(0, first, size) for first, size in zip(firsts, sizes, strict=True)]
        self.model.jobs[job_id] = Job(job_id, workload, due, made)
        self.requests.append((job_id, new))

    def admit_again(self, pick: int) -> None:
        job_id, new = self.requests[pick % len(self.requests)]
        job, existed = self.ledger.do(self.ledger.jobs.admit(UUID(int=next(self.numbers)), new))
        assert (job.job_id, existed) == (job_id, True)

    def cancel(self, pick: int) -> None:
        job_id = self.job(pick).job_id
        ended = self.ledger.do(self.ledger.jobs.cancel("default", job_id, LONG))
        void = self.model.cancel(job_id)
        assert ended is not None
        assert sorted(lease.lease_token for lease in ended.revoked) == sorted(void)

    def expire_due(self) -> None:
        ended = self.ledger.do(self.ledger.jobs.expire_due(LONG, max_jobs=100, max_batches=10_000))
        expected = self.model.expire_due()
        assert {e.job.job_id: sorted(r.lease_token for r in e.revoked) for e in ended} == {
            job_id: sorted(void) for job_id, void in expected.items()
        }

    def release(self, pick: int, before: int) -> None:
        job = self.job(pick)
        before = min(before, job.items)
        already = job.released
        released, more = already, True
        while more:
            found, more = self.ledger.do(self.ledger.jobs.release("default", job.job_id, before, 2))
            assert found is not None
            released = found.items_released
        assert released == self.model.release(job.job_id, before) >= already

    # --- feeding and claiming -----------------------------------------------------------------------------

    def feed(self, pick: int, number: int) -> None:
        job_id = self.job(pick).job_id
        fed = self.ledger.do(self.ledger.batches.feed({job_id: number}))
        assert fed.get(job_id, []) == self.model.feed(job_id, number)

    def hand_out(self, pick: int, picks: list[int], of: UUID | None = None) -> None:
        """The way of most batches: fed, and claimed by a session that is open."""
        waiting = [j.job_id for j in self.model.jobs.values() if any(b.state == "PENDING" for b in j.batches)]
        if not waiting:
            self.admit([3, 2], WORKLOADS[pick % len(WORKLOADS)])
            waiting = [list(self.model.jobs)[-1]]
        job_id = of or waiting[pick % len(waiting)]
        fed = self.ledger.do(self.ledger.batches.feed({job_id: len(picks)}))
        if any(not b.batch_id for b in self.model.jobs[job_id].batches):
            self._learn_ids(self.ledger.do(self.ledger.rows())[1])
        assert fed.get(job_id, []) == self.model.feed(job_id, len(picks))
        usable = [s for s, one in self.model.sessions.items() if one.state == "OPEN"]
        if not usable:
            self.open_session(WORKERS[pick % len(WORKERS)], [], old=False)
            usable = [list(self.model.sessions)[-1]]
        self._claim(
            [self._new_claim(b, usable[p % len(usable)]) for b, p in zip(fed.get(job_id, []), picks, strict=False)]
        )

    def hand_over(self, pick: int, picks: list[int]) -> None:
        """Fed and claimed in one step, for a session that may be over."""
        job_id, session_id = self.job(pick).job_id, self.session(pick)
        self._learn_ids(self.ledger.do(self.ledger.rows())[1])
        slots = [feeding.Slot(job_id, next(self.numbers).to_bytes(16, "big"), session_id) for _ in picks]
        taken = self.ledger.do(self.ledger.feeds.lease(slots))
        starts = self._waits(job_id)
        expected = set()
        if self.model.sessions[session_id].state == "OPEN":
            fed = self.model.feed(job_id, len(picks))
            expected = self.model.claim([(b, s.lease_token, session_id) for b, s in zip(fed, slots, strict=False)])
        assert {(t.batch_id, t.lease_token, t.attempt) for t in taken} == expected
        self.issued += [(batch_id, token) for batch_id, token, _ in sorted(expected)]
        assert [t.job_starts for t in taken] == [starts] * len(taken)
        if taken and starts:
            self.model.start(job_id)

    def claim(self, picks: list[int], session: int, *, anything: bool) -> None:
        session_id = self.session(session)
        wanted = self.some_batches(picks, *(() if anything else ("QUEUED",)))
        self._claim([self._new_claim(b.batch_id, session_id) for b in wanted])

    def _new_claim(self, batch_id: int, session_id: UUID) -> records.Claim:
        return records.Claim(batch_id, next(self.numbers).to_bytes(16, "big"), session_id)

    def claim_again(self, picks: list[int]) -> None:
        """The ledger's answer was lost: the same claim is written once more."""
        held = {b.token: b.session for b in self.model.batches() if b.token is not None}
        leases = [(b, t) for b, t in self.leases(picks, old=False) if t in held] if held else []
        self._claim([records.Claim(batch_id, token, held[token] or UUID(int=0)) for batch_id, token in leases])

    def _claim(self, claims: list[records.Claim]) -> None:
        taken = self.ledger.do(self.ledger.batches.claim(claims))
        expected = self.model.claim([(c.batch_id, c.lease_token, c.session_id) for c in claims])
        assert {(t.batch_id, t.lease_token, t.attempt) for t in taken} == expected
        self.issued += [
            (batch_id, token) for batch_id, token, _ in sorted(expected) if (batch_id, token) not in self.issued
        ]
        starting = {t.job_id for t in taken if t.job_starts}
        assert starting == {self.job_id_of(t.batch_id) for t in taken if self._waits(t.job_id)}
        self.ledger.do(self.ledger.batches.start_jobs(starting))
        for job_id in starting:
            self.model.start(job_id)

    def _waits(self, job_id: UUID) -> bool:
        return self.model.jobs[job_id].state == "PENDING"

    # --- outcomes -----------------------------------------------------------------------------------------

    def complete(self, leases: list[tuple[int, bytes]], failed: int, truncated: int) -> None:
        sizes = {b.batch_id: b.count for b in self.model.batches()}
        done = [
            records.Completion(
                batch_id, token, self.job_id_of(batch_id), 0, 0,
                min(failed, sizes[batch_id]), min(truncated, sizes[batch_id]),
            )
            for batch_id, token in leases
        ]  # fmt: skip
        held = self.held()
        found = self.ledger.do(self.ledger.batches.complete(done))
        assert found == self.model.complete(leases, failed, truncated)
        self._has_ended(leases, held, found)

    def retry(self, leases: list[tuple[int, bytes]], *, counts: bool) -> None:
        held = self.held()
        found = self._fail({lease: batches.Retry(AT_ONCE, counts) for lease in leases})
        assert found == self.model.retry(leases, counts=counts)
        self._has_ended(leases, held, found)

    def split(self, leases: list[tuple[int, bytes]]) -> None:
        sizes = {b.batch_id: b.count for b in self.model.batches()}
        leases = [lease for lease in leases if sizes[lease[0]] > 1]
        held = self.held()
        found = self._fail({(b, t): batches.Split(sizes[b] // 2, sizes[b] - sizes[b] // 2) for b, t in leases})
        assert found == self.model.split(leases)
        self._has_ended(leases, held, found)

    def give_up(self, leases: list[tuple[int, bytes]]) -> None:
        held = self.held()
        found = self._fail({lease: batches.GiveUp(batches.FailureReason.INTERNAL) for lease in leases})
        assert found == self.model.give_up(leases)
        self._has_ended(leases, held, found)

    def give_up_waiting(self, workload: str) -> None:
        changed = self.ledger.do(
            self.ledger.batches.give_up_waiting(workload, "nobody can", max_jobs=100, max_batches=10_000)
        )
        assert set(changed) == self.model.give_up_waiting(workload)

    def _fail(self, outcomes: dict[tuple[int, bytes], batches.Outcome]) -> set[int]:
        failures = [
            records.Failure(batch_id, token, self.job_id_of(batch_id), outcome, "on purpose")
            for (batch_id, token), outcome in outcomes.items()
        ]
        return self.ledger.do(self.ledger.batches.fail(failures))

    def _has_ended(self, leases: list[tuple[int, bytes]], held: set[bytes], settled: set[int]) -> None:
        """No attempt ends twice, whatever is said about it."""
        tokens = {token for batch_id, token in leases if batch_id in settled and token in held}
        assert not tokens & self.ended and len(tokens) == len(settled)
        self.ended |= tokens

    def held(self) -> set[bytes]:
        return {b.token for b in self.model.batches() if b.token is not None}

    def requeue(self, picks: Sequence[int]) -> None:
        for batch in self.some_batches(picks, "FAILED"):
            done = self.ledger.do(self.ledger.failed.requeue(batch.batch_id))
            assert done is not None
            assert (done.job_id, done.refused) == (self.job_id_of(batch.batch_id), self.model.requeue(batch.batch_id))

    # --- losses -------------------------------------------------------------------------------------------

    def entries_are_lost(self, picks: list[int]) -> None:
        ids = [b.batch_id for b in self.some_batches(picks, "QUEUED")]
        assert self.ledger.do(self.ledger.batches.unqueue(ids)) == self.model.unqueue(ids)

    def results_are_lost(self, pick: int, picks: list[int]) -> None:
        job = self.job(pick)
        completed = {b.first: b.batch_id for b in job.batches if b.state == "COMPLETED"}
        assert self.ledger.do(self.ledger.batches.completed_of(job.job_id)) == completed
        own = [b.batch_id for b in self.some_batches(picks, "COMPLETED") if b in job.batches]
        assert self.ledger.do(self.ledger.batches.recompute(job.job_id, own)) == self.model.recompute(job.job_id, own)

    # --- sessions -----------------------------------------------------------------------------------------

    def open_session(self, worker: UUID, picks: list[int], *, old: bool) -> None:
        self.resume(worker, self.leases(picks, old=old) if self.issued else [])

    def resume(self, worker: UUID, in_hand: list[tuple[int, bytes]]) -> None:
        session_id = UUID(int=next(self.numbers))
        new = records.NewSession(session_id, worker, "replica", "host", "0", "", b"")
        keys = [records.LeaseKey(*lease) for lease in in_hand]
        resumed, superseded, _ = self.ledger.do(self.ledger.sessions.open(new, keys))
        expected, earlier = self.model.open(session_id, worker, in_hand)
        assert {(r.batch_id, r.lease_token) for r in resumed} == expected
        assert set(superseded) == earlier

    def renew(self, picks: list[int]) -> None:
        chosen = list(dict.fromkeys(self.session(p) for p in picks))
        beats = [records.Heartbeat(s, b"", {"a": 1}) for s in chosen]
        assert self.ledger.do(self.ledger.sessions.renew(beats)).keys() == self.model.renew(chosen)

    def goodbye(self, session_id: UUID) -> None:
        self.ledger.do(self.ledger.sessions.end(session_id))
        self.model.end(session_id)
        self._claims_nothing(session_id)

    def stream_breaks(self, session_id: UUID, *, over: bool) -> None:
        self.ledger.do(self.ledger.sessions.mark_broken(session_id, AT_ONCE if over else LONG))
        self.model.mark_broken(session_id, over=over)
        self._claims_nothing(session_id)

    def _claims_nothing(self, session_id: UUID) -> None:
        """A replica that has not heard of the session's end still has an entry for it."""
        self.feed(0, 1)
        queued = [b.batch_id for b in self.model.batches() if b.state == "QUEUED"]
        self._claim([self._new_claim(batch_id, session_id) for batch_id in queued[:2]])

    def leases_are_lost(self) -> None:
        """What the rescuer does, in its two steps."""
        over = self.ledger.do(self.ledger.sessions.end_expired(100))
        assert set(over) == self.model.end_expired()
        left = self.ledger.do(self.ledger.batches.leases_of(over, 100))
        leases = [(h.batch_id, h.lease_token) for h in left]
        assert set(leases) == self.model.leases_of(over)
        held = self.held()
        found = self._fail({lease: batches.Retry(AT_ONCE) for lease in leases})
        assert found == self.model.retry(leases, counts=True)
        self._has_ended(leases, held, found)

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def the_rows_agree(self) -> None:
        jobs, rows, sessions = self.ledger.do(self.ledger.rows())
        self._learn_ids(rows)
        assert [_batch_as_it_is(r) for r in rows] == sorted(
            (_batch_as_it_should_be(j, b) for j in self.model.jobs.values() for b in j.batches), key=lambda b: b[:2]
        )
        assert {r.session_id: (r.worker_id, r.state) for r in sessions} == {
            s: (one.worker, one.state) for s, one in self.model.sessions.items()
        }
        assert {r.job_id: (r.state, r.items_released, max(r.items_released, r.acknowledged_item)) for r in jobs} == {
            j.job_id: (j.state, j.released, max(j.released, j.acknowledged)) for j in self.model.jobs.values()
        }
        for job in jobs:
            _is_sound(job, [r for r in rows if r.job_id == job.job_id])
        assert len({r.lease_token for r in rows if r.lease_token}) == sum(r.state == "LEASED" for r in rows)

    def _learn_ids(self, rows: Sequence[Any]) -> None:
        """New batches get their ids from the ledger."""
        by_place = {(r.job_id, r.first_item): r.batch_id for r in rows}
        for job in self.model.jobs.values():
            for batch in job.batches:
                batch.batch_id = batch.batch_id or by_place[job.job_id, batch.first]


def _batch_as_it_is(row: Any) -> tuple[object, ...]:
    return (
        row.job_id, row.first_item, row.batch_id, row.item_count, row.payload_offset, row.state, row.attempt,
        row.lease_token, row.session_id, row.items_succeeded, row.items_truncated, row.payload is None,
    )  # fmt: skip


def _batch_as_it_should_be(job: Job, batch: Batch) -> tuple[Any, ...]:
    return (
        job.job_id, batch.first, batch.batch_id, batch.count, batch.offset, batch.state, batch.attempt,
        batch.token, batch.session, batch.succeeded_items(), batch.truncated, batch.dropped,
    )  # fmt: skip


def _is_sound(job: Any, rows: Sequence[Any]) -> None:
    """A job's row follows from its batches' rows, whatever the model thinks."""
    ends = [0, *(r.first_item + r.item_count for r in rows)]
    assert [r.first_item for r in rows] == ends[:-1] and ends[-1] == job.item_count, "batches tile the job"
    lost = ("FAILED", "CANCELLED", "EXPIRED")
    assert (
        job.batch_count, job.batches_pending, job.batches_finished, job.items_succeeded, job.items_failed,
        job.items_truncated,
    ) == (
        len(rows),
        sum(r.state == "PENDING" for r in rows),
        sum(r.state not in OPEN for r in rows),
        sum(r.items_succeeded for r in rows),
        sum(r.item_count if r.state in lost else r.items_failed for r in rows),
        sum(r.items_truncated for r in rows),
    )  # fmt: skip
    assert all(r.payload for r in rows if r.state in (*OPEN, "COMPLETED")), "what may be computed has its payload"
    assert all(r.state not in OPEN for r in rows if r.first_item < job.items_released), "released is only what is done"
    acknowledged = [r for r in rows if r.first_item + r.item_count <= job.acknowledged_item]
    assert all(r.state in OPEN for r in acknowledged if r.payload), "what is acknowledged goes when it is done"
