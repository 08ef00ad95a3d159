"""A proxy before Postgres that cuts one connection at the COMMIT of a chosen transaction: its fate stays unknown.

Promises: `AFTER`: Postgres has committed and has said so, and nobody hears it; `BEFORE`: the COMMIT never arrives, so
Postgres rolls back. The caller cannot tell one from the other. All other connections, and this one until then, pass
untouched. A statement outside a transaction commits itself: its Sync is its COMMIT. For clients that wait for each
answer before they go on, without TLS, as asyncpg here.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 64 << 10
_STARTUP = 196_608


class Cut(enum.StrEnum):
    """On which side of the COMMIT."""

    AFTER = "after"
    BEFORE = "before"


class Conversation:
    """What a client says to Postgres, as far as it matters here: the statements of the transaction it is in."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self._prepared: dict[bytes, str] = {}
        self._begun = False
        self._in_transaction = False
        self._commits_itself = False
        self._rest = b""

    def hear(self, data: bytes) -> bool:
        """Takes what was sent; True when it ends with what commits `statements`."""
        self._rest += data
        commits = False
        while (message := self._next()) is not None:
            commits = self._understand(*message)
        return commits

    def _next(self) -> tuple[bytes, bytes] | None:
        # Before the startup message is through, messages have no type. The length counts itself.
        typed = 1 if self._begun else 0
        if len(self._rest) < typed + 4:
            return None
        (length,) = struct.unpack_from("!i", self._rest, typed)
        if len(self._rest) < typed + length:
            return None
        kind, body = self._rest[:typed], self._rest[typed + 4 : typed + length]
        self._rest = self._rest[typed + length :]
        return kind, body

    def _understand(self, kind: bytes, body: bytes) -> bool:
        if not self._begun:
            self._begun = struct.unpack_from("!i", body)[0] == _STARTUP
        elif kind == b"P":
            name, query, _ = body.split(b"\0", 2)
            self._prepared[name] = query.decode()
        elif kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            if not self._in_transaction:
                self.statements = []
                self._commits_itself = True
            self.statements.append(self._prepared[name])
        elif kind == b"S":
            # Not that of a statement which is only being prepared.
            commits, self._commits_itself = self._commits_itself, False
            return commits
        elif kind == b"Q":
            if body.startswith(b"COMMIT"):
                self._in_transaction = False
                return True
            if body.startswith((b"BEGIN", b"ROLLBACK")):
                self._in_transaction = body.startswith(b"BEGIN")
                self.statements = []
        return False


class CommitCutter:
    """Listens on `port` of the loopback. `cuts` counts; `cut` waits until it has happened."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.cuts = 0
        self._target_port = target_port
        self._armed: tuple[str, Cut] | None = None
        self._done = asyncio.Event()

    def arm(self, statement: str, where: Cut) -> None:
        """Cuts the next transaction one of whose statements contains this text; once."""
        self._armed = (statement, where)
        self._done.clear()

    async def cut(self) -> None:
        """Waits until what it was armed for has happened."""
        await self._done.wait()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[CommitCutter]:
        """Serves until the end of the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target_port)
            deaf = asyncio.Event()
            pumps = [
                asyncio.ensure_future(self._up(reader, server, deaf)),
                asyncio.ensure_future(self._down(answers, client, deaf)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            for writer in (client, server):
                if writer is not None:
                    writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        said = Conversation()
        while data := await reader.read(_CHUNK):
            if said.hear(data) and self._wants(said.statements):
                assert self._armed is not None
                where, self._armed = self._armed[1], None
                if where is Cut.BEFORE:
                    self._count()
                    return
                deaf.set()
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        while data := await reader.read(_CHUNK):
            if deaf.is_set():
                # The answer to the COMMIT: everything before it was waited for.
                self._count()
                return
            writer.write(data)
            await writer.drain()

    def _wants(self, statements: list[str]) -> bool:
        return self._armed is not None and any(self._armed[0] in statement for statement in statements)

    def _count(self) -> None:
        self.cuts += 1
        self._done.set()
