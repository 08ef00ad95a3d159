"""The frames between the front process and an executor: a kind, a small JSON header, raw bytes. Never pickle.

    u8 kind | u32 header length | u32 body length | header (JSON object, UTF-8) | body        all big-endian

Neither side trusts a length beyond MAX_FRAME_BYTES: a torn stream ends the executor instead of filling the memory.
"""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

MAX_FRAME_BYTES = 512 * 1024 * 1024
SMALL_BYTES = 64 * 1024
"""A body up to this size is better copied behind its header than sent by itself: whoever reads wakes once."""
_PREFIX = struct.Struct("!BII")


class Kind(enum.IntEnum):
    """What a frame says. Down: front to executor. Up: executor to front."""

    LOAD = 1
    """Down: header now (load it at once), budget (of an earlier life, 0: none); body = serialized Workload."""
    ASSIGN = 2
    """Down: header key, max_chunk_bytes, and alone where it is to have no company; body = serialized Assign. For images
    also pictures: offset (of the first one in the arena), height, width, fetch_s, errors ([index, reason number,
    message] each); their payload is an ImageItems with the keys alone, and the arena holds a picture's place for every
    item, failed ones included."""
    CANCEL = 3
    """Down: header key."""
    CHECK = 4
    """Down: header workload. Run the canary of its model, if it is loaded."""
    UNLOAD = 5
    """Down: header workload. Give its memory back; it has no batch in hand."""
    DECODE = 6
    """Down, to a decoder: header offset (in the arena), max_pixels, picture (fields of Picture); body = the file."""
    EMBED = 7
    """Down: header key, call_id, left_s (time left for it), pictures as with ASSIGN; body = serialized Assign without a
    lease: an interactive call."""
    DROP_EMBED = 8
    """Down: header key. An interactive call is not wanted any more."""
    READY = 10
    """Up, once: the process listens."""
    LOADING = 11
    """Up: header workload."""
    LOADED = 12
    """Up: header workload, seconds, memory_bytes, budget, precision, picture (fields of Picture, or null)."""
    UNAVAILABLE = 13
    """Up: header workload, reason."""
    PREPARING = 14
    """Up: header key."""
    COMPUTING = 15
    """Up: header key."""
    PROGRESS = 16
    """Up: header key, workload, items computed since the last one; body = serialized WorkerFrame, or empty."""
    RESULT = 17
    """Up: header key, workload, items that PROGRESS has not told, sizes and statistics; body = serialized WorkerFrames,
    one after the other."""
    FAILED = 18
    """Up: header key, reason (number), message, retryable."""
    DROPPED = 19
    """Up: header key, workload, items that PROGRESS has not told; a batch that was cancelled has left the device."""
    CHECKED = 20
    """Up: header workload; the canary that was asked for has passed."""
    FAULTY = 21
    """Up: header workload, reason; a canary has failed."""
    UNLOADED = 22
    """Up: header workload, unreturned_bytes: device memory that the process keeps although no model uses it."""
    BUDGET = 23
    """Up: header workload, budget; the device ran out of memory with more."""
    DECODED = 24
    """Up, from a decoder: header seconds, and reason and message if the image cannot be used."""
    EMBEDDING = 25
    """Up: header keys. These interactive calls are on the device now; told again while they are there for long."""
    EMBEDDED = 26
    """Up: header key, workload, items, seconds; body = serialized WorkerFrame with its EmbedAnswer, or empty: it was
    dropped, or its time was over."""


_KINDS = frozenset(int(kind) for kind in Kind)


class BrokenFrame(Exception):
    """The peer sent something that is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between front and executor."""

    kind: Kind
    header: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""


def encode(kind: Kind, header: dict[str, Any] | None = None, body_bytes: int = 0) -> bytes:
    """Prefix and header of a frame; the body follows as it is."""
    text = json.dumps(header or {}, separators=(",", ":")).encode()
    return prefix(kind, len(text), body_bytes) + text


def prefix(kind: Kind, header_bytes: int, body_bytes: int) -> bytes:
    """What comes before header and body."""
    return _PREFIX.pack(kind, header_bytes, body_bytes)


def cut(buffer: bytearray) -> Frame | None:
    """Takes the first frame out of what has come so far, once it is complete. Raises BrokenFrame on nonsense."""
    if len(buffer) < _PREFIX.size:
        return None
    kind, header_bytes, body_bytes = _checked(buffer[: _PREFIX.size])
    body_at = _PREFIX.size + header_bytes
    if len(buffer) < body_at + body_bytes:
        return None
    frame = Frame(kind, json.loads(buffer[_PREFIX.size : body_at]), bytes(buffer[body_at : body_at + body_bytes]))
    del buffer[: body_at + body_bytes]
    return frame


async def read_async(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises asyncio.IncompleteReadError at the end, BrokenFrame on nonsense."""
    kind, header_bytes, body_bytes = _checked(await reader.readexactly(_PREFIX.size))
    header = await reader.readexactly(header_bytes)
    body = await reader.readexactly(body_bytes) if body_bytes else b""
    return Frame(kind, json.loads(header), body)


def read_blocking(connection: socket.socket) -> Frame | None:
    """The next frame, or None when the peer has closed."""
    prefix = _receive(connection, _PREFIX.size)
    if prefix is None:
        return None
    kind, header_bytes, body_bytes = _checked(prefix)
    header = _receive(connection, header_bytes)
    body = _receive(connection, body_bytes) if header is not None else None
    if header is None or body is None:
        return None
    return Frame(kind, json.loads(bytes(header)), bytes(body))


def _checked(prefix: bytes | bytearray) -> tuple[Kind, int, int]:
    number, header_bytes, body_bytes = _PREFIX.unpack(prefix)
    if header_bytes + body_bytes > MAX_FRAME_BYTES or number not in _KINDS:
        raise BrokenFrame(f"frame of kind {number} with {header_bytes} + {body_bytes} bytes")
    return Kind(number), header_bytes, body_bytes


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes, or None when the peer closed first."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while len(view):
        try:
            received = connection.recv_into(view)
        except ConnectionResetError:
            # How a socket pair tells that the peer was killed before it had read everything.
            return None
        if received == 0:
            return None
        view = view[received:]
    return buffer
