"""One leader at a time, by a Postgres advisory lock on a connection of its own.

Promises: while it leads, no other replica does, as far as Postgres knows. The lock dies with the connection, so a
leader that loses it notices at its next `confirm()` and must stop. A paused leader may still write once after it wakes:
every singleton write is guarded by state as well, so that it can only repeat what is right. The term grows with each
new leader. The clock is the database's.
"""

from __future__ import annotations

import asyncpg

from podium_runtime import logs
from podium_scheduler.adapters.sql.database import GONE

log = logs.get_logger(__name__)

# "podium" in ASCII: the one advisory lock that we take.
LOCK_KEY = 0x706F6469756D
_ABSENT = (OSError, TimeoutError, asyncpg.PostgresError, *GONE)


class Leadership:
    """The claim of one replica to lead."""

    def __init__(self, url: str, replica_id: str) -> None:
        # asyncpg itself does not know SQLAlchemy's driver suffix.
        self._url = url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._replica_id = replica_id
        self._connection: asyncpg.Connection | None = None
        self.term = 0

    @property
    def leads(self) -> bool:
        """Whether the last try or confirmation succeeded."""
        return self.term > 0

    async def attempt(self) -> bool:
        """Tries to become the leader; False while another leads or the database is away."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url,
                    timeout=5,
                    command_timeout=5,
                    server_settings={"application_name": "podium-leader"},
                )
            if not await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
                return False
            self.term = await self._connection.fetchval(
                "UPDATE cluster SET leader_term = leader_term + 1, leader_replica_id = $1 RETURNING leader_term",
                self._replica_id,
            )
        except _ABSENT as error:
            log.warning("leadership_unreachable", error=str(error))
            await self.resign()
            return False
        log.info("leadership_taken", term=self.term)
        return True

    async def confirm(self) -> bool:
        """Whether this replica still leads."""
        try:
            if self._connection is None:
                raise OSError("no connection")
            term = await self._connection.fetchval("SELECT leader_term FROM cluster")
        except _ABSENT as error:
            log.warning("leadership_lost", term=self.term, error=str(error))
            await self.resign()
            return False
        if term != self.term:
            log.warning("leadership_superseded", term=self.term, now=term)
            await self.resign()
            return False
        return True

    async def resign(self) -> None:
        """Gives the lock back by closing its connection."""
        self.term = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
