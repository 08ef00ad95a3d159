"""The dispatcher between a ledger and a buffer that do what a test says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import errors, ids
from podium_scheduler.app import assigner, attempt_plans, dispatcher, records, wakers, worker_sessions

A, B = "a-workload", "b-workload"


class FakeBuffer:
    """Work streams in memory."""

    def __init__(self, **streams: int) -> None:
        self.streams: dict[str, list[records.Entry]] = {A: [], B: []}
        self.taken: set[str] = set()
        self.on_read: Callable[[], None] = lambda: None
        self.full = False

    async def push(self, workload: str, batch_ids: Sequence[int]) -> None:
        if self.full:
            raise errors.ResourceExhausted("the buffer is full", reason="BUFFER_FULL")
        self.streams[workload] += [records.Entry(workload, f"{b}-1", b) for b in batch_ids]

    def put(self, workload: str, *batch_ids: int) -> None:
        self.streams[workload] += [records.Entry(workload, f"{b}-0", b) for b in batch_ids]

    async def depths(self, workloads: Sequence[str]) -> dict[str, int]:
        return {w: len(self.streams[w]) for w in workloads}

    async def read(self, wanted: Mapping[str, int]) -> list[records.Entry]:
        found: list[records.Entry] = []
        for workload, count in wanted.items():
            new = [e for e in self.streams[workload] if e.entry_id not in self.taken]
            found += new[:count]
        self.taken |= {e.entry_id for e in found}
        self.on_read()
        return found

    async def settle(self, entries: Sequence[records.Entry]) -> None:
        for entry in entries:
            self.streams[entry.workload].remove(entry)

    async def take_over(self, workload: str, idle_ms: int, count: int) -> list[records.Entry]:
        return []


class FakeLedger:
    """Batches and sessions in memory; `lose_answers` commits and then answers with an error."""

    def __init__(self) -> None:
        self.leases: dict[int, records.Claim] = {}
        self.ended: set[uuid.UUID] = set()
        self.lose_answers = 0

    async def claim(self, claims: Sequence[records.Claim]) -> list[records.Leased]:
        won = [c for c in claims if c.session_id not in self.ended and self.leases.setdefault(c.batch_id, c) == c]
        if self.lose_answers:
            self.lose_answers -= 1
            raise errors.Unavailable("the connection broke after the commit")
        return [leased(c) for c in won]

    async def open_among(self, session_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        return set(session_ids) - self.ended

    async def start_jobs(self, job_ids: Iterable[uuid.UUID]) -> None: ...


class FakeWakeups:
    """Tells nobody."""

    leads = True

    async def replicas(self, kind: str, **fields: object) -> None: ...

    async def job_changed(self, changes: Sequence[tuple[uuid.UUID, str]]) -> None: ...
    async def deliveries(self, group_ids: Sequence[int]) -> None: ...


def leased(claim: records.Claim) -> records.Leased:
    return records.Leased(
        claim.batch_id, claim.lease_token, claim.session_id, 1, uuid.UUID(int=1), A, 1, 0, 1, b"", 1, 0, b"",
        None, "", False, 0.0,
    )  # fmt: skip


class Rig:
    """A dispatcher and what it works on."""

    def __init__(self) -> None:
        self.registry = worker_sessions.SessionRegistry()
        self.ledger = FakeLedger()
        self.buffer = FakeBuffer()
        # The fakes have only what the dispatcher uses of each port.
        ledger: Any = self.ledger
        buffer: Any = self.buffer
        told: Any = FakeWakeups()
        self.dispatcher = dispatcher.Dispatcher(
            self.registry, ledger, ledger, buffer, told, wakers.Wakers(told, told), ids.SequentialIds()
        )

    def worker(self, **credits: int) -> worker_sessions.Session:
        session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        offers = [worker_pb2.WorkloadStatus(workload=f"{w}-workload", credits=n) for w, n in credits.items()]
        session.take_status(worker_pb2.Status(total_credits=sum(credits.values()), workloads=offers), {A, B})
        self.registry.add(session)
        return session

    async def rounds(self, number: int = 3) -> None:
        for _ in range(number):
            await self.dispatcher.run_once()


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_fenced_session_costs_the_others_nothing(rig: Rig) -> None:
    fenced = rig.worker(a=4)
    rig.ledger.ended.add(fenced.session_id)
    rig.buffer.put(A, 1, 2, 3)
    await rig.rounds()
    assert fenced.closed.is_set()
    other = rig.worker(a=4)
    await rig.rounds()
    assert set(other.in_hand) == {1, 2, 3}
    assert rig.buffer.streams[A] == []


async def test_a_claim_whose_answer_was_lost_is_assigned_all_the_same(rig: Rig) -> None:
    session = rig.worker(a=2)
    rig.buffer.put(A, 1, 2)
    rig.ledger.lose_answers = 1
    await rig.rounds()
    assert set(session.in_hand) == {1, 2}
    assert rig.ledger.leases[1].lease_token == session.in_hand[1].lease_token


async def test_entries_that_nobody_can_take_any_more_hold_up_no_other_workload(rig: Rig) -> None:
    leaving = rig.worker(a=4)
    rig.buffer.put(A, 1, 2, 3, 4)
    rig.buffer.on_read = lambda: (rig.registry.remove(leaving), None)[1]
    await rig.rounds(1)
    other = rig.worker(b=2)
    rig.buffer.put(B, 11, 12)
    await asyncio.wait_for(rig.rounds(), 5)
    assert set(other.in_hand) == {11, 12}
    assert [e.batch_id for e in rig.buffer.streams[A] if e.entry_id not in rig.buffer.taken] == [1, 2, 3, 4]


async def test_entries_that_a_full_buffer_does_not_take_back_hold_up_no_other_workload(rig: Rig) -> None:
    """They are nobody's then, and go to whoever takes over what has been idle."""
    leaving = rig.worker(a=4)
    rig.buffer.put(A, 1, 2, 3, 4)
    rig.buffer.on_read = lambda: (rig.registry.remove(leaving), None)[1]
    rig.buffer.full = True
    await rig.rounds(1)
    other = rig.worker(b=2)
    rig.buffer.put(B, 11, 12)
    await asyncio.wait_for(rig.rounds(), 5)
    assert set(other.in_hand) == {11, 12}
    assert [e.batch_id for e in rig.buffer.streams[A]] == [1, 2, 3, 4]


async def test_entries_with_the_same_id_in_two_streams_are_two(rig: Rig) -> None:
    session = rig.worker(a=1, b=1)
    rig.buffer.streams[A].append(records.Entry(A, "1-0", 1))
    rig.buffer.streams[B].append(records.Entry(B, "1-0", 2))
    await rig.rounds(1)
    assert set(session.in_hand) == {1, 2}


async def test_batches_whose_items_may_be_known_are_planned_and_do_not_hold_up_the_others() -> None:
    rig = Rig()
    session = rig.worker(a=3)
    asked: list[int] = []
    assigned_before: list[set[int]] = []

    class Plans:
        async def plan(self, batch: records.Leased) -> attempt_plans.Plan:
            asked.append(batch.batch_id)
            assigned_before.append(set(session.in_hand))
            message = worker_pb2.KnownItems(sources=b"plan")
            return attempt_plans.Plan(b"scope", [b"h"], [0], 0, message)

    plain = rig.ledger.claim

    async def claim(claims: Sequence[records.Claim]) -> list[records.Leased]:
        found = await plain(claims)
        return [replace(b, dedupe_scope=b"scope") if b.batch_id == 1 else b for b in found]

    changed: Any = rig.ledger
    changed.claim = claim
    plans: Any = Plans()
    rig.dispatcher._assigner = assigner.Assigner(rig.registry, plans)
    rig.buffer.put(A, 1, 2, 3)
    await rig.rounds()
    assert asked == [1]
    assert assigned_before == [{2, 3}]
    frames = [session.outbox.get_nowait().assign for _ in range(3)]
    assert {f.lease.batch_id: f.known.sources for f in frames} == {1: b"plan", 2: b"", 3: b""}
    assert session.in_hand[1].plan is not None and session.in_hand[2].plan is None
