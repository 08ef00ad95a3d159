"""Notices within a few seconds that Postgres does not answer, whether it is gone or only silent.

Promises: from then on no call of this replica waits for it (see `database`). It asks on a connection of its own, so
that a pool that is merely busy does not look like an absence. Clock: the event loop's. A stall of this process is not
taken for one of Postgres: an answer that has arrived meanwhile counts.
"""

from __future__ import annotations

import asyncio

import asyncpg
from prometheus_client import Gauge

from podium_runtime import logs
from podium_scheduler.adapters.sql.database import GONE, Database, unavailable

log = logs.get_logger(__name__)
ANSWERS = Gauge("podium_ledger_up", "1 while Postgres answers this replica.")

_INTERVAL_S = 0.25
_ANSWER_S = 2.0
_SECOND_LOOK_S = 0.05
_ABSENT = (OSError, TimeoutError, asyncpg.PostgresError, *GONE)


class LedgerWatch:
    """A loop that asks the ledger whether it is there."""

    name = "ledger_watch"

    def __init__(self, database: Database) -> None:
        self.wake = asyncio.Event()
        self._database = database
        self._url = database.url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._connection: asyncpg.Connection | None = None
        self._answers = True

    async def run_once(self) -> float:
        """Asks once."""
        answers = await self._ask()
        if answers and not self._answers:
            log.info("ledger_is_back")
            self._database.declare_back()
        elif not answers and self._answers:
            log.warning("ledger_is_away")
            await self._database.declare_away()
        self._answers = answers
        ANSWERS.set(int(answers))
        return _INTERVAL_S

    async def ping(self) -> None:
        """Raises errors.Unavailable when the last answer did not come."""
        if not self._answers:
            raise unavailable()

    async def close(self) -> None:
        """Ends its connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _ask(self) -> bool:
        probe = asyncio.create_task(self._probe())
        try:
            await asyncio.wait({probe}, timeout=_ANSWER_S)
            if not probe.done():
                await asyncio.wait({probe}, timeout=_SECOND_LOOK_S)
            answered = probe.done() and probe.result()
            if not answered:
                await self.close()
            return answered
        finally:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)

    async def _probe(self) -> bool:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url, timeout=_ANSWER_S, server_settings={"application_name": "podium-watch"}
                )
            await self._connection.fetchval("SELECT 1")
        except _ABSENT:
            return False
        return True
