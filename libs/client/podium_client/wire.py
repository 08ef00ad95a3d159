"""Results off the wire with their vectors left where they are.

The generated class copies a megabyte of vectors when it parses them and again at each look. So a message that is laid
out as Podium's own workers and gateways do it is taken apart here; any other goes through the generated class.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podium.common.v1 import result_pb2
from podium.gateway.v1 import gateway_pb2

_LENGTH = 2
_CHUNK = gateway_pb2.StreamResultsResponse.CHUNK_FIELD_NUMBER << 3 | _LENGTH
_CURSOR = gateway_pb2.StreamResultsResponse.CURSOR_FIELD_NUMBER << 3 | _LENGTH
_VECTORS = result_pb2.ResultChunk.VECTORS_FIELD_NUMBER << 3 | _LENGTH
_MAX_LENGTH_BYTES = 5


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A StreamResultsResponse with a chunk."""

    chunk: result_pb2.ResultChunk
    """All but the vectors."""
    vectors: npt.NDArray[np.uint8]
    """Their bytes, shape (bytes,), read-only, in the message's own memory."""
    cursor: str


Message = gateway_pb2.StreamResultsResponse | ChunkMessage


def read(data: bytes) -> Message:
    """One serialized StreamResultsResponse. Raises google.protobuf.message.DecodeError."""
    return _chunk_message(data) or gateway_pb2.StreamResultsResponse.FromString(data)


def _chunk_message(data: bytes) -> ChunkMessage | None:
    """A chunk that begins with its vectors, a cursor, and nothing else; None for all other messages."""
    chunk = _value(data, 0, len(data), _CHUNK)
    vectors = _value(data, chunk[0], chunk[1], _VECTORS) if chunk else None
    cursor = _value(data, chunk[1], len(data), _CURSOR) if chunk else None
    if chunk is None or vectors is None or cursor is None or cursor[1] != len(data):
        return None
    rest = result_pb2.ResultChunk.FromString(data[vectors[1] : chunk[1]])
    if rest.vectors:
        # Said twice; the last one counts.
        return None
    view = np.frombuffer(data, np.uint8, vectors[1] - vectors[0], vectors[0])
    return ChunkMessage(rest, view, data[cursor[0] :].decode())


def _value(data: bytes, at: int, end: int, tag: int) -> tuple[int, int] | None:
    """Where the value of the field at `at` begins and stops, if it has this tag (of one byte) and a length."""
    if at >= end or data[at] != tag:
        return None
    size = 0
    for place in range(at + 1, min(at + 1 + _MAX_LENGTH_BYTES, end)):
        size |= (data[place] & 0x7F) << 7 * (place - at - 1)
        if data[place] < 0x80:
            return (place + 1, place + 1 + size) if place + 1 + size <= end else None
    return None
