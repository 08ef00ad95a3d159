"""The connection pool, and the one place where its errors become ours.

Promises: no call waits for an absent Postgres for longer than the watch (`ledger_watch`) needs to notice: it declares
the ledger away, which ends every connection, and with it every call, and refuses new calls at once. A connection of
ours that stops in the middle of a transaction is ended by Postgres after a few seconds, so that the row locks of a
paused replica do not stop the others.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from podium_runtime import errors, logs

log = logs.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONFLICTS = {"40001", "40P01"}
_CONFLICT_TRIES = 5
_CONFLICT_PAUSE_S = 0.02
# Connection; resources (too many connections, disk or memory full); an operator or a timeout ended it; system error.
_AWAY = {"08", "53", "57", "58"}
# A transaction's fate unknown; read-only, as a standby or a failing primary is; ended for idling in a transaction; a
# lock not to be had in time.
_AWAY_TOO = {"40003", "25006", "25P03", "55P03"}
# InternalClientError: the server's farewell lies unread in a connection that is used again before it closes.
GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError)
_RAW = (asyncpg.PostgresError, *GONE)

Guard = Callable[[AsyncConnection], Awaitable[None]]
"""Called at the end of a transaction, before its commit; raises when it may not commit."""

# In milliseconds. A replica that stops while it holds locks is ended before anybody misses them much.
LIMITS: Mapping[str, str] = {
    "statement_timeout": "30000",
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "3000",
    "tcp_user_timeout": "10000",
}


def ledger_call(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Retries conflicts (deadlock, serialization) soon and turns an absent database into errors.Unavailable.

    A conflict that does not pass is Unavailable too: the caller may try again, later.

    Only for calls that are one transaction: what was rolled back may be done again.
    """

    @functools.wraps(call)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        for tries_left in reversed(range(_CONFLICT_TRIES)):
            try:
                return await call(*args, **kwargs)
            except exc.DBAPIError as error:
                if _sqlstate(error) in _CONFLICTS and tries_left:
                    await asyncio.sleep(_CONFLICT_PAUSE_S * random.random() * (_CONFLICT_TRIES - tries_left))
                    continue
                if _is_absence(error) or _sqlstate(error) in _CONFLICTS:
                    raise unavailable() from error
                raise
            # SQLAlchemy passes on what asyncpg raises while it connects.
            except (*_RAW, exc.TimeoutError, OSError, TimeoutError) as error:
                if isinstance(error, _RAW) and not _is_absence(error):
                    raise
                raise unavailable() from error
        raise AssertionError("unreachable")

    return guarded


class Database:
    """A bounded pool of connections to the ledger."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        pool_timeout_s: float = 2.0,
        limits: Mapping[str, str] = LIMITS,
        command_timeout_s: float | None = 30.0,
    ) -> None:
        self.url = url
        self._guard: Guard | None = None
        self._away = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()
        self._connections: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            pool_pre_ping=False,
            connect_args={
                "timeout": 2,
                "command_timeout": command_timeout_s,
                "server_settings": {
                    "application_name": "podium-scheduler",
                    "timezone": "UTC",
                    # The hot tables grow from nothing to a backlog and back. A plan that was cached while they were
                    # nearly empty reads all of them at each completion, until statistics are taken again.
                    "plan_cache_mode": "force_custom_plan",
                    **limits,
                },
            },
        )
        event.listen(self.engine.sync_engine, "connect", self._connected)
        # The same pool. Without BEGIN and COMMIT a statement is one round trip, not three, or four with a fence.
        self._peeks = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A read-committed transaction: commits at the end, rolls back on any error."""
        if self._away.is_set():
            raise unavailable()
        async with AsyncExitStack() as stack:
            connection = await self._connect(self.engine, stack)
            async with connection.begin():
                yield connection
                if self._guard is not None:
                    await self._guard(connection)

    @asynccontextmanager
    async def peek(self) -> AsyncIterator[AsyncConnection]:
        """For statements that only read: each is a transaction of its own, and sees what was committed before it.

        Nothing is fenced, and no lock lasts longer than its statement: what is to be written needs `transaction`.
        """
        if self._away.is_set():
            raise unavailable()
        async with AsyncExitStack() as stack:
            yield await self._connect(self._peeks, stack)

    @asynccontextmanager
    async def stroke(self, *, holds_fence: bool = False) -> AsyncIterator[AsyncConnection]:
        """For what one statement writes: a transaction of its own, in one round trip instead of three.

        One statement only: a second one would be another transaction. Under a guard it is a `transaction`, unless the
        statement does what the guard would (`leadership.write`).
        """
        plain = holds_fence or self._guard is None
        async with self.peek() if plain else self.transaction() as connection:
            yield connection

    @property
    def guard(self) -> Guard | None:
        """What transactions of this pool have to pass."""
        return self._guard

    async def _connect(self, engine: AsyncEngine, stack: AsyncExitStack) -> AsyncConnection:
        """One of the pool, or a new one; TimeoutError when the ledger is declared away meanwhile."""
        async with asyncio.timeout(None) as wait:
            self._waits.add(wait)
            try:
                return await stack.enter_async_context(engine.connect())
            finally:
                self._waits.discard(wait)

    def under(self, guard: Guard) -> Database:
        """The same pool; each transaction commits only if the guard lets it."""
        guarded = copy.copy(self)
        guarded._guard = guard
        return guarded

    async def declare_away(self) -> None:
        """Ends all connections and refuses calls until `declare_back`. What was on its way may have been committed."""
        self._away.set()
        for wait in self._waits:
            wait.reschedule(asyncio.get_running_loop().time())
        for connection in list(self._connections):
            connection.terminate()
        # A fresh pool: what was idle in the old one is dead.
        await self.engine.dispose(close=False)

    def declare_back(self) -> None:
        """Takes calls again."""
        self._away.clear()

    def _connected(self, connection: Any, _record: object) -> None:
        self._connections.add(connection.driver_connection)

    @ledger_call
    async def ping(self) -> None:
        """Raises errors.Unavailable when the database does not answer."""
        async with self.peek() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()


def unavailable() -> errors.Unavailable:
    """What callers are told while Postgres is away."""
    return errors.Unavailable("the ledger does not answer; try again", retry_after_s=1.0, reason="LEDGER_UNAVAILABLE")


def _is_absence(error: Exception) -> bool:
    # asyncpg has no sqlstate on a connection that died under it, hence the check for invalidation and interface errors.
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    state = _sqlstate(error)
    return isinstance(error, (exc.InterfaceError, *GONE)) or state[:2] in _AWAY or state in _AWAY_TOO


def _sqlstate(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", error), "sqlstate", "") or "")
