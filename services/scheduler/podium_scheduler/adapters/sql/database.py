"""The connection pool, and the one place where its errors become ours."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from podium_runtime import errors, logs

log = logs.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONFLICTS = {"40001", "40P01"}
_CONFLICT_TRIES = 5
# Connection; resources (too many connections, disk or memory full); an operator or a timeout ended it; system error.
_AWAY = {"08", "53", "57", "58"}
# A transaction's fate unknown; read-only, as a standby or a failing primary is; a lock not to be had in time.
_AWAY_TOO = {"40003", "25006", "55P03"}
# InternalClientError: the server's farewell lies unread in a connection that is used again before it closes.
GONE = (asyncpg.InterfaceError, asyncpg.InternalClientError)
_RAW = (asyncpg.PostgresError, *GONE)


def ledger_call(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Retries conflicts (deadlock, serialization) at once and turns an absent database into errors.Unavailable.

    Only for calls that are one transaction: what was rolled back may be done again.
    """

    @functools.wraps(call)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        for tries_left in reversed(range(_CONFLICT_TRIES)):
            try:
                return await call(*args, **kwargs)
            except exc.DBAPIError as error:
                if _sqlstate(error) in _CONFLICTS and tries_left:
                    continue
                if _is_absence(error):
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

    def __init__(self, url: str, *, pool_size: int = 10, pool_timeout_s: float = 5.0) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            pool_pre_ping=False,
            connect_args={
                "timeout": 5,
                "command_timeout": 30,
                "server_settings": {
                    "application_name": "podium-scheduler",
                    "timezone": "UTC",
                    # The hot tables grow from nothing to a backlog and back. A plan that was cached while they were
                    # nearly empty reads all of them at each completion, until statistics are taken again.
                    "plan_cache_mode": "force_custom_plan",
                },
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A read-committed transaction: commits at the end, rolls back on any error."""
        async with self.engine.begin() as connection:
            yield connection

    @ledger_call
    async def ping(self) -> None:
        """Raises errors.Unavailable when the database does not answer."""
        async with self.transaction() as connection:
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
