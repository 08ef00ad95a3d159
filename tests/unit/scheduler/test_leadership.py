"""What the lead and the ledger's calls make of a connection that ended without a word that SQLAlchemy knows."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from podium_runtime import errors
from podium_scheduler.adapters.sql.database import ledger_call
from podium_scheduler.adapters.sql.leadership import Leadership

# A server's farewell that arrived while the process was stopped, found by the next statement.
UNREAD_FAREWELL = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


class Connection:
    """Takes the lock and then meets its end."""

    def __init__(self) -> None:
        self.terminated = False

    async def fetchval(self, statement: str, *_: object) -> object:
        if "WHERE leader_term" in statement:
            raise UNREAD_FAREWELL
        return 7

    def is_closed(self) -> bool:
        return False

    def terminate(self) -> None:
        self.terminated = True


async def test_a_leader_whose_connection_ended_while_it_was_stopped_steps_down(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection()

    async def connect(*_: Any, **__: Any) -> Connection:
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect)
    leadership = Leadership("postgresql+asyncpg://nowhere/podium", "replica")
    assert await leadership.attempt()
    assert not await leadership.confirm()
    assert not leadership.leads
    assert connection.terminated


async def test_the_ledger_is_away_then_too() -> None:
    @ledger_call
    async def call() -> None:
        raise UNREAD_FAREWELL

    with pytest.raises(errors.Unavailable):
        await call()
