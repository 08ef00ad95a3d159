"""One leader at a time: a Postgres advisory lock on a connection of its own, a heartbeat, and a term number.

Promises: no write of an earlier leader commits after a new leader took its term, however long the earlier one was
paused, because every transaction of a leader's loop ends with `fence()`. The lock finds a dead leader at once, as it
goes with its connection; the heartbeat in the row `cluster` finds one that hangs while its kernel keeps the connection
open. Who has watched a heartbeat stand still for `lease`, while the database answered, ends the holder's connection and
leads.

Clocks: the heartbeat is written in the database's time and only compared with itself; for how long it stands still is
measured by the watcher's own monotonic clock, which starts anew whenever the watcher could not look. Failure: a leader
that cannot reach the database resigns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_runtime import clock, errors, logs
from podium_scheduler.adapters.sql.database import GONE, Database

log = logs.get_logger(__name__)

# "podium" in ASCII: the one advisory lock that we take.
LOCK_KEY = 0x706F6469756D
_ABSENT = (OSError, TimeoutError, asyncpg.PostgresError, *GONE)
_TIMEOUT_S = 2.0
LEASE = timedelta(seconds=2.5)
AWAY_AFTER = timedelta(seconds=5)

# A gap between two heartbeats means that for its length nobody could be expected to renew anything.
_HEARTBEAT = """
    leader_renew_time = clock_timestamp(),
    renewable_since = CASE WHEN leader_renew_time < clock_timestamp() - CAST($1 AS interval) THEN clock_timestamp()
                           ELSE renewable_since END
"""

# FOR UPDATE waits for every fenced transaction in flight; a plain UPDATE, as of the heartbeat, would not.
_TAKE = f"""
    WITH bar AS MATERIALIZED (SELECT one_row FROM cluster FOR UPDATE)
    UPDATE cluster SET leader_term = leader_term + 1, leader_replica_id = $2, {_HEARTBEAT}
    FROM bar WHERE cluster.one_row = bar.one_row
    RETURNING leader_term
"""
_RENEW = f"UPDATE cluster SET {_HEARTBEAT} WHERE leader_term = $2 RETURNING true"

# The role must be the holder's own, a member of it, or a member of pg_signal_backend.
_END_HOLDER = """
    SELECT pg_terminate_backend(pid, 1000) FROM pg_locks
    WHERE locktype = 'advisory' AND (CAST(classid AS bigint) << 32 | CAST(objid AS bigint)) = $1 AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND granted AND pid <> pg_backend_pid()
"""

# A transaction that wrote nothing has no id yet; it needs no fence, and locking a row would be a write in itself.
_FENCE = text("""
    WITH term AS MATERIALIZED (
        SELECT FROM cluster WHERE leader_term = :term AND pg_current_xact_id_if_assigned() IS NOT NULL FOR KEY SHARE
    )
    SELECT pg_current_xact_id_if_assigned() IS NULL OR EXISTS (SELECT FROM term)
""")


# The same within a statement that is a transaction of its own: it changes what it changes only where there is a `term`.
# Without a term, as in tests and outside of the leader's loops, there always is.
HELD_TERM = """term AS MATERIALIZED (
        SELECT FROM cluster WHERE leader_term = coalesce(CAST(:term AS bigint), leader_term) FOR KEY SHARE
    )"""


class Fence:
    """A guard for `Database.under`: what was written commits only while `term` is the newest.

    It holds the cluster's row until the commit, so a new term waits for it or it sees the new term. Calls `refused`
    and raises errors.Unavailable when another leads.
    """

    def __init__(self, term: int, refused: Callable[[], None]) -> None:
        self.term = term
        self.refused = refused

    async def __call__(self, connection: AsyncConnection) -> None:
        if not await connection.scalar(_FENCE, {"term": self.term}):
            raise self.refusal()

    def refusal(self) -> errors.Unavailable:
        """Another leads: what to raise."""
        log.warning("write_of_an_old_term_refused", term=self.term)
        self.refused()
        return errors.Unavailable("another replica leads", reason="LEADERSHIP_LOST")


def fence(term: int, refused: Callable[[], None]) -> Fence:
    """The fence of a term; see there."""
    return Fence(term, refused)


async def write(database: Database, statement: TextClause, values: Mapping[str, object]) -> Sequence[Row[Any]]:
    """Runs one statement that holds the fence itself, with HELD_TERM: one round trip. Its first row tells whether this
    replica `leads`; raises errors.Unavailable if it does not."""
    fence_of = held(database)
    async with database.stroke(holds_fence=fence_of is not None) as connection:
        rows = (await connection.execute(statement, {**values, "term": fence_of.term if fence_of else None})).all()
    if fence_of is not None and not rows[0].leads:
        raise fence_of.refusal()
    return rows


def held(database: Database) -> Fence | None:
    """What a statement with HELD_TERM has to hold, of the leader's own ledgers."""
    return database.guard if isinstance(database.guard, Fence) else None


class Leadership:
    """The claim of one replica to lead."""

    def __init__(
        self,
        url: str,
        replica_id: str,
        *,
        lease: timedelta = LEASE,
        away_after: timedelta = AWAY_AFTER,
        time: clock.Clock | None = None,
    ) -> None:
        # asyncpg itself does not know SQLAlchemy's driver suffix.
        self._url = url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._replica_id = replica_id
        self._lease_s = lease.total_seconds()
        self._away_after = away_after
        self._clock = time or clock.SystemClock()
        self._connection: asyncpg.Connection | None = None
        self._seen: tuple[datetime | None, float] | None = None
        """The holder's last heartbeat, and since when this replica has seen no other."""
        self.term = 0

    @property
    def leads(self) -> bool:
        """Whether the last try or confirmation succeeded."""
        return self.term > 0

    async def attempt(self) -> bool:
        """Tries to become the leader; False while another leads or the database is away."""
        try:
            connection = await self._connect()
            if not await self._lock(connection):
                return False
            self.term = await connection.fetchval(_TAKE, self._away_after, self._replica_id)
        except _ABSENT as error:
            log.warning("leadership_unreachable", error=str(error))
            await self.resign()
            return False
        log.info("leadership_taken", term=self.term)
        return True

    async def confirm(self) -> bool:
        """Writes a heartbeat; whether this replica still leads."""
        try:
            if self._connection is None:
                raise OSError("no connection")
            leads = await self._connection.fetchval(_RENEW, self._away_after, self.term)
        except _ABSENT as error:
            log.warning("leadership_lost", term=self.term, error=str(error))
            await self.resign()
            return False
        if not leads:
            log.warning("leadership_superseded", term=self.term)
            await self.resign()
            return False
        return True

    async def resign(self) -> None:
        """Gives the lock back by closing its connection."""
        self.term = 0
        self._seen = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._url,
                timeout=_TIMEOUT_S,
                command_timeout=_TIMEOUT_S,
                server_settings={"application_name": "podium-leader"},
            )
        return self._connection

    async def _lock(self, connection: asyncpg.Connection) -> bool:
        take = "SELECT pg_try_advisory_lock($1)"
        if await connection.fetchval(take, LOCK_KEY):
            return True
        if not await self._holder_hangs(connection):
            return False
        log.warning("hanging_leader_ended")
        await connection.fetch(_END_HOLDER, LOCK_KEY)
        return bool(await connection.fetchval(take, LOCK_KEY))

    async def _holder_hangs(self, connection: asyncpg.Connection) -> bool:
        beat = await connection.fetchval("SELECT leader_renew_time FROM cluster")
        now = self._clock.monotonic()
        if self._seen is None or self._seen[0] != beat:
            self._seen = (beat, now)
        return now - self._seen[1] >= self._lease_s
