"""A TCP proxy that misbehaves on command: the network between two processes of a test.

Promises: while it passes, bytes arrive in order and whole, with bounded memory (each direction holds at most a few
hundred KiB; then its sender feels the back pressure). `impose` changes the weather for the connections that exist and
for those to come; `heal` makes all well again. What HOLD kept is delivered afterwards, as after a partition that TCP
outlived; a connection that lost bytes to SWALLOW is reset, since its stream has a hole. Clock: the loop's. Failure: a
target that refuses shows as a reset of the accepted connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import socket
import struct
from dataclasses import dataclass
from typing import Self

from tests.support.ports import free_port

_CHUNK = 64 << 10
_RESET = struct.pack("ii", 1, 0)


class Flow(enum.StrEnum):
    """What happens to the bytes of one direction."""

    PASS = "pass"
    HOLD = "hold"
    """They wait, ends of streams too: nobody learns anything."""
    SWALLOW = "swallow"
    """They are taken and lost: the sender believes them delivered."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The weather. `up` is from the client to the server; delay_s is added to each piece of up to 64 KiB."""

    listening: bool = True
    up: Flow = Flow.PASS
    down: Flow = Flow.PASS
    delay_s: float = 0.0
    bytes_per_s: float = math.inf


FAIR = Conditions()


@dataclass(eq=False, slots=True)
class _Link:
    """One proxied connection. `torn`: it lost bytes, so it cannot go on."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    torn: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


class TcpProxy:
    """Listens on `port` of the loopback and connects each caller to the target. Use with `async with`."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.conditions = FAIR
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        """Where callers connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that it carries now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops listening and cuts what is connected."""
        self._deafen()
        self.reset_all()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def impose(self, conditions: Conditions) -> None:
        """Changes the weather from now on."""
        self.conditions = conditions
        self._changed.set()
        self._changed = asyncio.Event()
        if conditions.listening:
            await self._listen()
        else:
            self._deafen()
        for link in list(self._links):
            if link.torn and Flow.SWALLOW not in (conditions.up, conditions.down):
                link.reset()

    async def heal(self) -> None:
        """Makes all well again."""
        await self.impose(FAIR)

    def reset_all(self) -> int:
        """Resets every connection at both ends; returns how many there were."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        while True:
            port = self.port or free_port()
            try:
                self._server = await asyncio.start_server(self._accepted, "127.0.0.1", port)
            except OSError:
                # Somebody took it between the look and the bind; one that others know must not change.
                if self.port:
                    raise
                continue
            self.port = port
            return

    def _deafen(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(client)
            return
        link = _Link(client, server)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, "up", reader, server)),
            asyncio.ensure_future(self._pump(link, "down", answers, client)),
        ]
        try:
            await asyncio.gather(*pumps)
            client.close()
            server.close()
        except OSError:
            link.reset()
        except asyncio.CancelledError:
            link.reset()
            raise
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)

    async def _pump(
        self, link: _Link, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            if await self._passes(link, direction, len(data)):
                writer.write(data)
                await writer.drain()
        if await self._passes(link, direction, 0) and writer.can_write_eof():
            writer.write_eof()

    async def _passes(self, link: _Link, direction: str, size: int) -> bool:
        """Waits as the weather demands; False when these bytes are lost."""
        while (flow := getattr(self.conditions, direction)) is Flow.HOLD:
            await self._changed.wait()
        if flow is Flow.SWALLOW:
            link.torn = True
            if size == 0:
                # The end of a stream is lost too: this side hears nothing until the weather changes.
                await self._changed.wait()
            return False
        pause_s = self.conditions.delay_s + size / self.conditions.bytes_per_s
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
