"""One Postgres for all tests of a process, and a migrated database of its own for each that asks.

A cluster and its migrations cost seconds; a copy of a database that is migrated already costs a tenth of one.

Promises: databases share nothing but the server, and are gone with their `with` block; the leader's advisory locks are
of one database too. Nothing survives a crash of the machine: what is durable is the business of tests with a server of
their own (`stack.servers(as_deployed=True)`). The server starts with the first who asks, on a thread and a loop of its
own, since each test has a loop that ends before it; who gives up waiting for that ends it for nobody else. It ends with
`close`, which takes its files away, or, however the process ends, with it: then the files are left in `make_folder`'s,
pytest's own folder, which pytest clears up as it does what else such a run has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from podium_embedded import EmbeddedPostgres
from podium_scheduler.adapters.sql import migrate


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="podium-postgres-"))


make_folder: Callable[[], Path] = _temporary
"""Where the server's files go; tests/conftest.py sets it."""
_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Lent:
    """A database of the shared server. url: an SQLAlchemy URL for asyncpg."""

    url: str
    port: int


class _Server(EmbeddedPostgres):
    """Its database `podium` is migrated, and nobody stays connected to it: it is the template."""

    def _command(self) -> list[str]:
        return super()._command() + [word for name in _FORGETFUL for word in ("-c", f"{name}={_FORGETFUL[name]}")]

    async def start(self, port: int = 0) -> None:
        await super().start(port)
        await migrate.upgrade(self.url)


class SharedPostgres:
    """A server on a thread of its own. It ends with that thread, for the kernel takes the thread for its parent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shared-postgres", daemon=True)
        self._thread.start()
        self._server = _Server(self._folder)
        self._started = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop)

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self._of("postgres").replace("+asyncpg", ""))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _of(self, database: str) -> str:
        return self._server.url.rsplit("/", 1)[0] + f"/{database}"

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Lent]:
        """A new database with an empty, migrated ledger."""
        # Not by `wrap_future`: to cancel that is to cancel the start.
        await asyncio.to_thread(self._started.result)
        name = f"test_{uuid.uuid4().hex}"
        await self._run(f"CREATE DATABASE {name} TEMPLATE podium")
        try:
            yield Lent(self._of(name), self._server.port)
        finally:
            await self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Ends the server and takes its files away."""
        with contextlib.suppress(Exception):
            self._started.result()
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_mine: list[SharedPostgres] = []


@contextlib.asynccontextmanager
async def migrated() -> AsyncIterator[Lent]:
    """A new database with an empty, migrated ledger, on this process's server."""
    if not _mine:
        _mine.append(SharedPostgres(make_folder()))
    async with _mine[0].lend() as lent:
        yield lent


def close() -> None:
    """Ends this process's server, if it has one."""
    while _mine:
        _mine.pop().close()
