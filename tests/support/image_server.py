"""An HTTP server on loopback that behaves as a test says, badly for the most part.

Promises: what a route was told happens to the byte (lengths that lie, headers that are none); every request is counted
by path before it is answered; `async with` ends with no connection left. Clock: the loop's, for the delays that routes
are given. Failure: a client that goes away in the middle ends its connection's task, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent. Header names are in lower case; `path` has the query."""

    method: str
    path: str
    headers: Mapping[str, str]


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[bool]]
"""Writes an answer; whether the connection may go on after it."""


@dataclass
class ImageServer:
    """Routes by path, the query not included; anything else is 404."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any that is free."""
    tls: ssl.SSLContext | None = None
    requests: Counter[str] = field(default_factory=Counter)
    """By path, the query included."""
    seen: list[Request] = field(default_factory=list)
    connections: int = 0
    """Accepted so far."""
    most_at_once: int = 0
    """Requests that were under way together, at most."""

    def __post_init__(self) -> None:
        self._routes: dict[str, Respond] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str, host: str | None = None) -> str:
        """Of a route, by the server's address or by a name for it."""
        return f"{'https' if self.tls else 'http'}://{host or self.host}:{self.port}{path}"

    def route(self, path: str, respond: Respond) -> str:
        """Answers `path` in any way at all. Returns its URL."""
        self._routes[path] = respond
        return self.url(path)

    def serve(
        self,
        path: str,
        body: bytes,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "image/jpeg",
        length: int | None = None,
        delay_s: float = 0.0,
    ) -> str:
        """A whole answer. `length`: what Content-Length says, if not the truth. Returns its URL."""
        fields = {"Content-Type": content_type, "Content-Length": str(len(body) if length is None else length)}
        head = _head(status, {**fields, **(headers or {})})

        async def respond(_: Request, writer: asyncio.StreamWriter) -> bool:
            await asyncio.sleep(delay_s)
            writer.write(head + body)
            return length is None

        return self.route(path, respond)

    def in_turn(self, path: str, *others: str) -> str:
        """Answers as `others` do, one after the other and then always as the last. Returns its URL."""
        order = itertools.chain(others, itertools.repeat(others[-1]))

        async def respond(request: Request, writer: asyncio.StreamWriter) -> bool:
            return await self._routes[next(order)](request, writer)

        return self.route(path, respond)

    def flapping(self, path: str, body: bytes, *, failures: int, status: int = 503) -> str:
        """Fails so many times before it succeeds. Returns its URL."""
        good = self.serve(f"{path}#good", body)
        bad = self.serve(f"{path}#bad", b"", status=status)
        assert good and bad
        return self.in_turn(path, *([f"{path}#bad"] * failures), f"{path}#good")

    def redirect(self, path: str, to: str, status: int = 302) -> str:
        """Returns its URL."""
        return self.serve(path, b"", status=status, headers={"Location": to})

    def raw(self, path: str, pieces: Sequence[bytes], *, gap_s: float = 0.0) -> str:
        """Sends just these bytes, with gaps between the pieces, and closes. Returns its URL."""

        async def respond(_: Request, writer: asyncio.StreamWriter) -> bool:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(gap_s)
            return False

        return self.route(path, respond)

    def endless(self, path: str, *, piece: bytes = b"\0" * 65536, gap_s: float = 0.0, length: int | None = None) -> str:
        """A body that never ends, chunked, or of a `length` that it never comes to. Returns its URL."""
        head = _head(200, {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)})
        chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if length is None else piece

        async def respond(_: Request, writer: asyncio.StreamWriter) -> bool:
            writer.write(head)
            while True:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(gap_s)

        return self.route(path, respond)

    def silent(self, path: str) -> str:
        """Takes a request and never answers. Returns its URL."""

        async def respond(_: Request, writer: asyncio.StreamWriter) -> bool:
            await asyncio.Event().wait()
            return False

        return self.route(path, respond)

    def held(self, path: str, body: bytes, until: asyncio.Event) -> str:
        """Answers once `until` is set. Returns its URL."""
        self.serve(f"{path}#then", body)

        async def respond(request: Request, writer: asyncio.StreamWriter) -> bool:
            await until.wait()
            return await self._routes[f"{path}#then"](request, writer)

        return self.route(path, respond)

    async def until(self, true: Callable[[], bool], deadline_s: float = 10.0) -> None:
        """Waits for something that a request changes. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s), self._changed:
            await self._changed.wait_for(true)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError
            ):
                while (request := await _read_request(reader)) and await self._answered(request, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, ssl.SSLError):
                await writer.wait_closed()

    async def _answered(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        await self._count(request, 1)
        try:
            respond = self._routes.get(request.path.partition("?")[0], _not_found)
            goes_on = await respond(request, writer)
            await writer.drain()
            return goes_on
        finally:
            await self._count(request, -1)

    async def _count(self, request: Request, change: int) -> None:
        self._at_once += change
        if change > 0:
            self.requests[request.path] += 1
            self.seen.append(request)
            self.most_at_once = max(self.most_at_once, self._at_once)
        async with self._changed:
            self._changed.notify_all()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def _not_found(_: Request, writer: asyncio.StreamWriter) -> bool:
    writer.write(_head(404, {"Content-Length": "0"}))
    return True


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, or None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    return Request(method, path, {name.strip().lower(): value.strip() for name, _, value in fields})
