"""The keeper while the ledger is away: from everybody, or from this replica alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors
from podium_scheduler.app import records, session_keeper, worker_sessions


class Ledger:
    """Renews, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.wanted: list[str] = []

    async def renew(self, heartbeats: Sequence[records.Heartbeat]) -> dict[uuid.UUID, records.Wish]:
        if self.away:
            raise errors.Unavailable("away", reason="LEDGER_UNAVAILABLE")
        return {h.session_id: records.Wish(drain=False, wanted=self.wanted) for h in heartbeats}


class Rig:
    """A keeper with one session."""

    def __init__(self) -> None:
        self.time = clock.FakeClock()
        self.ledger = Ledger()
        fake: Any = self.ledger
        self.registry = registry = worker_sessions.SessionRegistry()
        self.session = worker_sessions.Session(uuid.uuid4(), uuid.uuid4())
        registry.add(self.session)
        self.keeper = session_keeper.SessionKeeper(registry, fake, fake, 1.0, 10.0, self.time)

    async def second(self, *, leader_heard: bool) -> bool:
        """One second and one round; whether the worker was told to go on."""
        self.session.heard = True
        self.time.advance(1.0)
        if leader_heard:
            self.keeper.leader_heard()
        await self.keeper.run_once()
        told = not self.session.outbox.empty()
        while not self.session.outbox.empty():
            self.session.outbox.get_nowait()
        return told


async def test_a_model_that_was_loaded_or_unloaded_is_written_at_once() -> None:
    rig = Rig()
    loaded = worker_pb2.Status(devices=[worker_pb2.DeviceStatus(resident_workloads=["w"])])
    woken = []
    for status in (worker_pb2.Status(), loaded, loaded, worker_pb2.Status()):
        rig.session.take_status(status, {"w"})
        woken.append(rig.keeper.wake.is_set())
        rig.keeper.wake.clear()
    # The second within a moment waits for it to pass.
    assert woken == [False, True, False, False]
    async with asyncio.timeout(10):
        await rig.keeper.wake.wait()


async def test_workers_go_on_while_the_ledger_is_away_from_everybody() -> None:
    rig = Rig()
    assert await rig.second(leader_heard=True)
    rig.ledger.away = True
    for _ in range(60):
        assert await rig.second(leader_heard=False)
    assert not rig.session.closed.is_set()
    assert rig.session.heard, "it is renewed when the ledger is back"


async def test_streams_end_when_only_this_replica_is_cut_off() -> None:
    rig = Rig()
    assert await rig.second(leader_heard=True)
    rig.ledger.away = True
    rounds = 0
    while not rig.session.closed.is_set():
        await rig.second(leader_heard=True)
        rounds += 1
        assert rounds < 6, "the sessions would expire before the workers are elsewhere"
    assert rounds > 1


@pytest.mark.parametrize("away_s", [1, 30])
async def test_a_leader_that_finds_the_ledger_again_first_is_no_reason_to_let_go(away_s: int) -> None:
    rig = Rig()
    assert await rig.second(leader_heard=True)
    rig.ledger.away = True
    for _ in range(away_s):
        await rig.second(leader_heard=False)
    for _ in range(2):
        assert await rig.second(leader_heard=True)
    rig.ledger.away = False
    for _ in range(5):
        assert await rig.second(leader_heard=True)
    assert not rig.session.closed.is_set()


async def test_a_heartbeat_brings_what_is_wanted() -> None:
    """The leader's wake-up may get lost; the ledger has it."""
    rig = Rig()
    rig.ledger.wanted = ["minilm", "clip"]
    await rig.keeper.run_once()
    assert list(rig.session.outbox.get_nowait().desired.resident_workloads) == ["minilm", "clip"]


async def test_workers_are_told_to_say_it_less_often_the_more_there_are() -> None:
    rig = Rig()
    for more in (0, 199):
        for _ in range(more):
            rig.registry.add(worker_sessions.Session(uuid.uuid4(), uuid.uuid4()))
        rig.session.heard = True
        await rig.keeper.run_once()
        told = rig.session.outbox.get_nowait().desired.heartbeat_interval.ToNanoseconds() / 1e9
        assert told == (1.0 if not more else 2.0)
