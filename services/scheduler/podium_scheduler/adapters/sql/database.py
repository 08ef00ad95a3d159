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
                "server_settings": {"application_name": "podium-scheduler", "timezone": "UTC"},
            },
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A read-committed transaction: commits at the end, rolls back on any error."""
        async with self.engine.begin() as connection:
            yield connection

    async def ping(self) -> None:
        """Raises errors.Unavailable when the database does not answer."""
        await self._ping()

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()

    async def _ping(self) -> None:
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))


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
                if getattr(error.orig, "sqlstate", None) in _CONFLICTS and tries_left:
                    continue
                if _is_absence(error):
                    raise unavailable() from error
                raise
            except (exc.TimeoutError, OSError, TimeoutError, asyncpg.PostgresConnectionError) as error:
                raise unavailable() from error
        raise AssertionError("unreachable")

    return guarded


def unavailable() -> errors.Unavailable:
    """What callers are told while Postgres is away."""
    return errors.Unavailable("the ledger does not answer; try again", retry_after_s=1.0, reason="LEDGER_UNAVAILABLE")


def _is_absence(error: exc.DBAPIError) -> bool:
    # Class 08: connection; 57P0x: shutdown or start-up; 53300: too many connections. asyncpg has no sqlstate on
    # a connection that died under it, hence the check for invalidation and interface errors.
    state = str(getattr(error.orig, "sqlstate", "") or "")
    return (
        error.connection_invalidated
        or isinstance(error, exc.InterfaceError)
        or state.startswith("08")
        or state in {"57P01", "57P02", "57P03", "53300", "25006"}
    )
