"""A session is opened whole or not at all."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest

from podium.worker.v1 import worker_pb2
from podium_runtime import ids
from podium_scheduler.app import records, session_lives, worker_sessions


class Ledger:
    async def open(
        self, new: records.NewSession, in_hand: list[records.LeaseKey]
    ) -> tuple[list[records.ResumedLease], list[uuid.UUID], records.Standing]:
        return [], [], records.Standing()

    async def recover(self, session_ids: list[uuid.UUID], *, handed_back: bool) -> int:
        return 0


class SlowWakers:
    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def place(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_stream_that_is_cancelled_while_it_opens_leaves_no_session_behind() -> None:
    """Its handler has no session yet that it could close."""
    registry = worker_sessions.SessionRegistry()
    ledger: Any = Ledger()
    wakers: Any = SlowWakers()
    lives = session_lives.SessionLives(
        registry, ledger, wakers, ledger, {}, "replica-1", timedelta(seconds=1), ids.SystemIds()
    )
    opening = asyncio.create_task(lives.open(worker_pb2.Hello(worker_id=str(uuid.uuid4()))))
    async with asyncio.timeout(5):
        await wakers.asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert registry.all() == []


class BusyLedger(Ledger):
    """Lets go of nobody until it is told to; counts who is there."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = self.most = 0
        self.full = asyncio.Event()

    async def _stay(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside >= 7:
            self.full.set()
        await self.go.wait()
        self.inside -= 1

    async def open(
        self, new: records.NewSession, in_hand: list[records.LeaseKey]
    ) -> tuple[list[records.ResumedLease], list[uuid.UUID], records.Standing]:
        await self._stay()
        return [], [], records.Standing()

    async def mark_broken(self, session_id: uuid.UUID, grace: timedelta) -> None:
        await self._stay()


class QuickWakers:
    async def place(self) -> None: ...


async def test_however_many_come_and_go_others_find_connections_to_the_ledger() -> None:
    registry = worker_sessions.SessionRegistry()
    ledger: Any = BusyLedger()
    wakers: Any = QuickWakers()
    lives = session_lives.SessionLives(
        registry, ledger, wakers, ledger, {}, "replica-1", timedelta(seconds=1), ids.SystemIds()
    )
    leaving = [worker_sessions.Session(uuid.uuid4(), uuid.uuid4()) for _ in range(50)]
    for session in leaving:
        registry.add(session)
    coming = [asyncio.create_task(lives.open(worker_pb2.Hello(worker_id=str(uuid.uuid4())))) for _ in range(50)]
    going = [asyncio.create_task(lives.close(session)) for session in leaving]
    async with asyncio.timeout(5):
        await ledger.full.wait()
        # Of ten connections that a replica has by default.
        assert ledger.most == 7
        coming[-1].cancel()
        ledger.go.set()
        await asyncio.gather(*coming, *going, return_exceptions=True)
    assert ledger.most == 7
    assert len(registry.all()) == 49
