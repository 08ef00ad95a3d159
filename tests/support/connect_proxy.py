"""An HTTP CONNECT proxy that knows names which nobody else does: the way out of a tailnet.

Promises: it connects to nothing but what it was told of, and remembers who was asked for. Failure: for other names it
answers 403; a target that refuses is 502; a request that is none, or does not come in time, closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Self

_REQUEST_S = 10.0
_CHUNK = 64 << 10


class ConnectProxy:
    """Listens on a free port of the loopback. `ways`: from the `host:port` asked for to the real one."""

    def __init__(self, ways: Mapping[str, str] | None = None) -> None:
        self.ways = dict(ways or {})
        self.asked: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What `grpc_proxy` has to be."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._serving.discard(task)
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_REQUEST_S):
            header = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = header.decode("latin1").split("\r\n", 1)[0].split(" ")
        self.asked.append(target)
        way = self.ways.get(target) if method == "CONNECT" else None
        if way is None:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        host, _, port = way.rpartition(":")
        try:
            inner = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            pumps = [asyncio.create_task(_pump(reader, inner[1])), asyncio.create_task(_pump(inner[0], writer))]
            try:
                # Who closes one direction of a gRPC connection is done with the other.
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            await _close(inner[1])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
