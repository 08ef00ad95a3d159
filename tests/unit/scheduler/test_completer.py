"""The completer: what is told to whom, and when, while Redis and Postgres come and go."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import errors
from podium_scheduler.app import completer, records, worker_sessions
from podium_scheduler.domain import batches

STEP_S = 10.0
JOB = uuid.UUID(int=1)


class Ports:
    """Redis, Postgres and the wake-ups in memory; what happens is written down in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.commit = asyncio.Event()
        """Set when Postgres may commit."""
        self.absences = 0
        """So many calls of the ledger find it away."""
        self.stale: set[int] = set()
        self.durable: set[int] = set()
        """Batches that the ledger has results of."""
        self.asked = asyncio.Event()

    async def admit_results(self, results: Sequence[tuple[uuid.UUID, int, int, Sequence[bytes]]]) -> None:
        self.steps.append("result")

    async def drop_batches(self, job_id: uuid.UUID, first_items: Sequence[int]) -> None:
        self.steps.append("drop")

    async def complete(self, completions: Sequence[records.Completion]) -> set[int]:
        return await self._commit({c.batch_id for c in completions})

    async def with_results(self, batch_ids: Sequence[int]) -> set[int]:
        self.steps.append("look")
        return set(batch_ids) & self.durable

    async def still_leased(self, keys: Sequence[records.LeaseKey]) -> set[int]:
        return {key.batch_id for key in keys} - self.stale

    async def fail(self, failures: Sequence[records.Failure]) -> set[int]:
        return await self._commit({f.batch_id for f in failures})

    async def _commit(self, batch_ids: set[int]) -> set[int]:
        self.asked.set()
        if self.absences:
            self.absences -= 1
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")
        await self.commit.wait()
        self.steps.append("commit")
        return batch_ids - self.stale

    async def job_changed(self, changes: Sequence[tuple[uuid.UUID, str]]) -> None:
        self.steps.append("wake")


class Rig:
    """A completer at work, and one session with one batch in hand."""

    def __init__(self) -> None:
        self.ports = Ports()
        fakes: Any = self.ports
        self.completer = completer.Completer(fakes, fakes, fakes, asyncio.Event())
        self.session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        self.held = worker_sessions.Held(b"token", 1, JOB, "hash-384", 0, 2, next_item=2, chunks=[memoryview(b"chunk")])
        self.session.in_hand[7] = self.held

    async def told(self) -> worker_pb2.SchedulerFrame:
        async with asyncio.timeout(STEP_S):
            return await self.session.outbox.get()


@asynccontextmanager
async def working() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.completer.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    async with working() as rig:
        rig.completer.complete(rig.session, 7, rig.held)
        await asyncio.wait_for(rig.ports.asked.wait(), STEP_S)
        assert rig.session.outbox.empty() and rig.session.in_hand
        rig.ports.commit.set()
        assert (await rig.told()).ack.lease.batch_id == 7
        # Readers may look while the ledger has not heard of it yet.
        assert rig.ports.steps[:2] == ["result", "commit"]
        assert not rig.session.in_hand


@pytest.mark.parametrize("outcome", [batches.Retry(batches.RetryPolicy().first_delay), batches.Split(1, 1)])
async def test_a_failure_is_acknowledged_after_its_commit_too(outcome: batches.Outcome) -> None:
    async with working() as rig:
        rig.completer.fail(rig.session, 7, rig.held, outcome, "on purpose")
        await asyncio.wait_for(rig.ports.asked.wait(), STEP_S)
        assert rig.session.outbox.empty()
        rig.ports.commit.set()
        assert (await rig.told()).WhichOneof("frame") == "ack"


@pytest.mark.parametrize(
    ("outcome", "steps"),
    [
        (batches.Retry(batches.RetryPolicy().first_delay), ["commit"]),
        (batches.Split(1, 1), ["drop", "commit"]),
        (batches.GiveUp(batches.FailureReason.WORKER_LOST), ["drop", "commit"]),
    ],
)
async def test_no_vectors_stay_where_the_ledger_has_a_failure(outcome: batches.Outcome, steps: list[str]) -> None:
    async with working() as rig:
        rig.ports.commit.set()
        rig.completer.fail(rig.session, 7, rig.held, outcome, "on purpose")
        await rig.told()
        assert rig.ports.steps[: len(steps)] == steps


async def test_a_stale_failure_leaves_the_results_of_whoever_has_the_lease_now() -> None:
    async with working() as rig:
        rig.ports.commit.set()
        rig.ports.stale.add(7)
        rig.completer.fail(rig.session, 7, rig.held, batches.GiveUp(batches.FailureReason.WORKER_LOST), "on purpose")
        assert (await rig.told()).cancel.reason == worker_pb2.CANCEL_REASON_LEASE_LOST
        assert "drop" not in rig.ports.steps


async def test_a_stale_outcome_is_taken_back_and_never_acknowledged() -> None:
    async with working() as rig:
        rig.ports.commit.set()
        rig.ports.stale.add(7)
        rig.completer.complete(rig.session, 7, rig.held)
        assert (await rig.told()).cancel.reason == worker_pb2.CANCEL_REASON_LEASE_LOST
        assert rig.session.outbox.empty() and not rig.session.in_hand


async def test_an_outcome_waits_for_the_ledger_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completer, "_PATIENCE_S", 0.0)
    async with working() as rig:
        rig.ports.absences = 3
        rig.ports.commit.set()
        rig.completer.complete(rig.session, 7, rig.held)
        assert (await rig.told()).WhichOneof("frame") == "ack"
        assert rig.ports.absences == 0


@pytest.mark.parametrize(("durable", "told"), [({7}, "ack"), (set(), "cancel")], ids=["committed", "stale"])
async def test_a_commit_whose_answer_was_lost_is_acknowledged(durable: set[int], told: str) -> None:
    async with working() as rig:
        rig.ports.absences, rig.ports.stale, rig.ports.durable = 1, {7}, durable
        rig.ports.commit.set()
        rig.completer.complete(rig.session, 7, rig.held)
        assert (await rig.told()).WhichOneof("frame") == told
        assert "look" in rig.ports.steps
