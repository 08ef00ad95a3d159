"""The short way to idle workers: who gets a batch by it, and what becomes of leases whose writing was not confirmed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors, ids
from podium_scheduler.app import assigner, feeding, handover, records, worker_sessions

W = "a-workload"
JOB = uuid.UUID(int=7)


class Ledger:
    """Leases every slot, under the batch ids 1, 2, ...; `lose_answers` commits and then answers with an error."""

    def __init__(self) -> None:
        self.slots: list[feeding.Slot] = []
        self.lose_answers = 0
        self.during: Any = lambda: None
        self.scope: bytes | None = None
        """Within what items of its batches are recognised, but for those of `unique` batches."""
        self.unique: set[int] = set()

    async def lease(self, slots: Sequence[feeding.Slot]) -> list[records.Leased]:
        self.during()
        first = len(self.slots) + 1
        self.slots += slots
        if self.lose_answers:
            self.lose_answers -= 1
            raise errors.Unavailable("the connection broke after the commit")
        return [self._leased(n, s.lease_token, s.session_id) for n, s in enumerate(slots, first)]

    async def admit(
        self, job_id: uuid.UUID, new: records.NewJob, slots: Sequence[feeding.Slot]
    ) -> tuple[Any, list[records.Leased]]:
        return new, await self.lease(slots)

    async def leases_of(self, session_ids: Sequence[uuid.UUID], limit: int) -> list[records.HeldLease]:
        return [
            records.HeldLease(n, s.lease_token, 1, JOB, s.session_id)
            for n, s in enumerate(self.slots, 1)
            if s.session_id in session_ids
        ]

    async def claim(self, claims: Sequence[records.Claim]) -> list[records.Leased]:
        return [self._leased(c.batch_id, c.lease_token, c.session_id) for c in claims]

    def _leased(self, batch_id: int, token: bytes, session_id: uuid.UUID) -> records.Leased:
        return records.Leased(
            batch_id, token, session_id, 1, JOB, W, 1, batch_id - 1, 1, b"", 1, 0, b"", None, "", True, 0.0,
            None if batch_id in self.unique else self.scope,
        )  # fmt: skip


class Told:
    """Notes which jobs are said to have started."""

    def __init__(self) -> None:
        self.jobs: list[uuid.UUID] = []

    async def job_changed(self, changes: Sequence[tuple[uuid.UUID, str]]) -> None:
        self.jobs += [job_id for job_id, kind in changes if kind == "state"]


class Recognising:
    """Looks for known items until it may go on."""

    def __init__(self) -> None:
        self.looks, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def plan(self, batch: records.Leased) -> None:
        self.looks.set()
        await self.may_go_on.wait()


class Rig:
    """A handover and what it works on."""

    recognising: Recognising

    def __init__(self) -> None:
        self.registry = worker_sessions.SessionRegistry()
        self.ledger, self.told = Ledger(), Told()
        self.time = clock.FakeClock()
        ledger: Any = self.ledger
        told: Any = self.told
        self.handover = handover.Handover(
            self.registry, ledger, assigner.Assigner(self.registry), told, ids.SequentialIds(), self.time
        )

    def worker(self, credits: int) -> worker_sessions.Session:
        session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        offer = worker_pb2.WorkloadStatus(workload=W, credits=credits)
        session.take_status(worker_pb2.Status(total_credits=credits, workloads=[offer]), {W})
        self.registry.add(session)
        return session

    async def lease(self, batches: int) -> tuple[int, int]:
        ledger: Any = self.ledger
        return await self.handover.lease(ledger, W, [JOB] * batches)

    async def admit(self, batches: int) -> int:
        """How many batches of a job are begun as it is admitted."""
        ledger: Any = self.ledger
        cut = tuple(records.NewBatch(n, 1, b"", 1) for n in range(batches))
        new = records.NewJob("app", uuid.uuid4(), b"", W, 1, 3, {}, b"", None, "", cut)
        begun = await self.handover.admit(ledger, JOB, new, self.handover.idle(W, batches))
        return begun[1] if begun is not None else 0


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_only_workers_that_have_nothing_get_a_batch_and_one_each(rig: Rig) -> None:
    one, other = rig.worker(4), rig.worker(4)
    assert await rig.lease(5) == (2, 2)
    assert sorted([*one.in_hand, *other.in_hand]) == [1, 2]
    assert len(one.in_hand) == 1
    assert await rig.lease(3) == (0, 0)
    assert set(rig.told.jobs) == {JOB}


async def test_a_worker_without_credit_gets_none(rig: Rig) -> None:
    rig.worker(0)
    assert await rig.lease(1) == (0, 0)
    assert rig.ledger.slots == []


async def test_what_is_on_its_way_counts_as_in_hand(rig: Rig) -> None:
    session = rig.worker(1)
    seen: list[tuple[dict[str, int], int]] = []
    rig.ledger.during = lambda: seen.append((rig.registry.free_by_workload(), rig.registry.free_total()))
    await rig.lease(1)
    assert seen == [({W: 0}, 0)]
    assert (rig.registry.free_total(), session.load) == (0, 1)


async def test_a_lease_without_an_answer_is_found_and_handed_out(rig: Rig) -> None:
    session = rig.worker(2)
    rig.ledger.lose_answers = 1
    with pytest.raises(errors.Unavailable):
        await rig.lease(1)
    assert (session.in_hand, session.load) == ({}, 0)
    rig.time.advance(1.0)
    await rig.handover.recover()
    assert session.in_hand[1].lease_token == rig.ledger.slots[0].lease_token
    rig.ledger.slots.clear()
    rig.time.advance(1.0)
    await rig.handover.recover()
    assert len(session.in_hand) == 1


async def test_a_job_whose_admission_had_no_answer_is_begun_all_the_same(rig: Rig) -> None:
    one, other = rig.worker(2), rig.worker(2)
    rig.ledger.lose_answers = 1
    with pytest.raises(errors.Unavailable):
        await rig.admit(3)
    assert (one.load, other.load) == (0, 0)
    rig.time.advance(1.0)
    await rig.handover.recover()
    assert sorted([*one.in_hand, *other.in_hand]) == [1, 2]


async def test_while_a_job_is_admitted_its_workers_are_not_idle(rig: Rig) -> None:
    session = rig.worker(1)
    loads: list[int] = []
    rig.ledger.during = lambda: loads.append(session.load)
    assert (await rig.admit(1), loads, session.load) == (1, [1], 1)
    assert rig.handover.idle(W, 1) == []


async def test_a_lease_that_was_never_written_is_looked_for_and_forgotten(rig: Rig) -> None:
    session = rig.worker(2)
    rig.ledger.lose_answers = 1
    with pytest.raises(errors.Unavailable):
        await rig.lease(1)
    written, rig.ledger.slots = rig.ledger.slots, []
    for _ in range(3):
        rig.time.advance(1.0)
        await rig.handover.recover()
    # It was only late.
    rig.ledger.slots = written
    rig.time.advance(1.0)
    await rig.handover.recover()
    assert list(session.in_hand) == [1]


async def test_a_session_that_ends_meanwhile_leaves_its_lease_to_the_rescuer(rig: Rig) -> None:
    session = rig.worker(1)
    rig.ledger.during = lambda: rig.registry.remove(session)
    assert await rig.lease(1) == (1, 1)
    assert session.in_hand == {}


@pytest.fixture
def looked_at() -> Rig:
    """Its batches are handed out once it is known what of them is."""
    rig = Rig()
    rig.ledger.scope, rig.recognising = b"s" * 32, Recognising()
    dedupe: Any = rig.recognising
    rig.handover._assigner = assigner.Assigner(rig.registry, dedupe)
    return rig


async def test_what_is_not_handed_out_yet_counts_as_in_hand(looked_at: Rig) -> None:
    session = looked_at.worker(1)
    leasing = asyncio.create_task(looked_at.lease(1))
    await looked_at.recognising.looks.wait()
    assert (looked_at.registry.free_total(), looked_at.registry.idle(W, 1)) == (0, [])
    looked_at.recognising.may_go_on.set()
    assert await leasing == (1, 1)
    assert (list(session.in_hand), session.load) == ([1], 1)


async def test_a_lead_that_ends_before_all_is_handed_out_loses_no_lease(looked_at: Rig) -> None:
    """The feeder is cancelled; its sessions live on, and with them their leases."""
    session = looked_at.worker(2)
    leasing = asyncio.create_task(looked_at.lease(1))
    await looked_at.recognising.looks.wait()
    leasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leasing
    assert (session.in_hand, session.load) == ({}, 0)
    looked_at.recognising.may_go_on.set()
    looked_at.time.advance(1.0)
    await looked_at.handover.recover()
    assert session.in_hand[1].lease_token == looked_at.ledger.slots[0].lease_token


async def test_what_was_handed_out_before_the_lead_ended_is_not_handed_out_again(looked_at: Rig) -> None:
    one, other = looked_at.worker(1), looked_at.worker(1)
    looked_at.ledger.unique = {1}
    leasing = asyncio.create_task(looked_at.lease(2))
    await looked_at.recognising.looks.wait()
    leasing.cancel()
    await asyncio.gather(leasing, return_exceptions=True)
    looked_at.recognising.may_go_on.set()
    for _ in range(2):
        looked_at.time.advance(1.0)
        await looked_at.handover.recover()
    assert sorted([*one.in_hand, *other.in_hand]) == [1, 2]
    assert one.outbox.qsize() == other.outbox.qsize() == 1


async def test_one_answer_brings_a_bounded_number_of_payloads(rig: Rig) -> None:
    for _ in range(70):
        rig.worker(1)
    assert await rig.lease(70) == (64, 64)
