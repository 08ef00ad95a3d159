"""Large strings of Redis, received into the memory in which they stay.

redis-py reads by asyncio.StreamReader: it copies a megabyte four times, and is woken for every piece of 64 to 256 KB.
Here the socket writes into the string itself, and who waits is woken once. Whatever is small goes the usual way.

Promises: what comes, comes in order, whichever way; the end of a connection ends a wait. It relies on how redis-py's
parser is made; `tests/integration/test_large_replies.py` says when that has changed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis import exceptions
from redis._parsers import _AsyncRESP3Parser

LARGE_BYTES = 64 * 1024
_SMALL_BUFFER_BYTES = 64 * 1024
_END = b"\r\n"


class _Inlet(asyncio.BufferedProtocol):
    """Between a transport and the protocol of a StreamReader, which hears everything but the large strings."""

    def __init__(self, usual: Any, reader: asyncio.StreamReader) -> None:
        self._usual = usual
        self._reader = reader
        self._small = memoryview(bytearray(_SMALL_BUFFER_BYTES))
        self._room: memoryview | None = None
        """What is left to be received of a large string."""
        self._filled: asyncio.Future[None] | None = None

    async def read(self, size: int) -> bytearray:
        """Exactly `size` bytes. Raises redis' ConnectionError when the connection ends before."""
        whole = bytearray(size)
        with memoryview(whole) as view:
            # What has come already, or the first of what comes.
            head = await self._reader.read(size)
            view[: len(head)] = head
            if len(head) < size:
                await self._fill(view[len(head) :], ended=not head)
        return whole

    async def _fill(self, room: memoryview, *, ended: bool) -> None:
        if ended or self._reader.at_eof():
            raise exceptions.ConnectionError("Connection closed by server.")
        self._room, self._filled = room, asyncio.get_running_loop().create_future()
        try:
            await self._filled
        finally:
            self._room = self._filled = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._small if self._room is None else self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._room is None:
            self._reader.feed_data(self._small[:nbytes])
            return
        if nbytes < len(self._room):
            self._room = self._room[nbytes:]
            return
        # What comes before the one who waits has its turn is another's.
        self._room = None
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)

    def eof_received(self) -> bool | None:
        self._ended()
        return self._usual.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        self._usual.connection_lost(exc)

    def pause_writing(self) -> None:
        self._usual.pause_writing()

    def resume_writing(self) -> None:
        self._usual.resume_writing()

    def _ended(self) -> None:
        if self._filled is not None and not self._filled.done():
            self._filled.set_exception(exceptions.ConnectionError("Connection closed by server."))


class Parser(_AsyncRESP3Parser):
    """redis-py's parser; strings of LARGE_BYTES and more come as a bytearray of their own."""

    _inlet: _Inlet | None = None

    def on_connect(self, connection: Any) -> None:
        """Called by redis-py, for one connection perhaps more than once."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        transport = connection._writer.transport
        protocol = transport.get_protocol()
        if not isinstance(protocol, _Inlet):
            protocol = _Inlet(protocol, connection._reader)
            transport.set_protocol(protocol)
        self._inlet = protocol

    async def _read(self, length: int) -> bytes | bytearray:  # type: ignore[override]
        # What was read in part before a cancellation is in the buffer.
        if length < LARGE_BYTES or self._inlet is None or self._buffer:
            return await super()._read(length)
        whole = await self._inlet.read(length + len(_END))
        del whole[-len(_END) :]
        self._pos += length + len(_END)
        return whole
