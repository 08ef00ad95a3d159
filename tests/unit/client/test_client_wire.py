"""Results off the wire: whatever their layout, they mean what the generated class says."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
from google.protobuf import message

from podium.common.v1 import result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_client import wire
from podium_client.results import chunk_from_proto

ROWS = np.arange(8_192, dtype="<f4").reshape(64, 128)
VECTORS = ROWS.tobytes()
REST = result_pb2.ResultChunk(
    job_id="job",
    item_count=64,
    count=64,
    dimension=128,
    dtype=workload_pb2.DTYPE_FLOAT32,
    crc32c=google_crc32c.value(VECTORS),
)


def put(number: int, value: bytes) -> bytes:
    size, out = len(value), bytearray([number << 3 | 2])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size]) + value


def whole() -> result_pb2.ResultChunk:
    chunk = result_pb2.ResultChunk(vectors=VECTORS)
    chunk.MergeFrom(REST)
    return chunk


OURS = put(4, VECTORS) + REST.SerializeToString()
CURSOR = put(4, b"cursor")
OTHERS = {
    "by field number": put(1, whole().SerializeToString()) + CURSOR,
    "vectors twice": put(1, put(4, b"old") + REST.SerializeToString() + put(4, VECTORS)) + CURSOR,
    "cursor first": CURSOR + put(1, OURS),
    "chunk twice": put(1, put(4, b"old")) + put(1, OURS) + CURSOR,
    "a field of a newer gateway": put(1, OURS) + CURSOR + put(15, b"news"),
}


def test_vectors_stay_where_they_are() -> None:
    found = wire.read(put(1, OURS) + CURSOR)
    assert isinstance(found, wire.ChunkMessage)
    assert (found.chunk, found.cursor) == (REST, "cursor")
    chunk = chunk_from_proto(found.chunk, found.cursor, found.vectors)
    np.testing.assert_array_equal(chunk.vectors, ROWS)
    assert chunk.vectors.flags.aligned and not chunk.vectors.flags.writeable
    assert np.shares_memory(chunk.vectors, found.vectors)


def test_vectors_at_an_odd_place_are_moved_to_an_even_one() -> None:
    odd = np.frombuffer(b"x" + VECTORS, np.uint8, len(VECTORS), 1)
    chunk = chunk_from_proto(REST, "", odd)
    np.testing.assert_array_equal(chunk.vectors, ROWS)
    assert chunk.vectors.flags.aligned and not chunk.vectors.flags.writeable


@pytest.mark.parametrize("layout", OTHERS)
def test_other_layouts_are_parsed(layout: str) -> None:
    found = wire.read(OTHERS[layout])
    assert isinstance(found, gateway_pb2.StreamResultsResponse)
    assert (found.chunk, found.cursor) == (whole(), "cursor")


def test_other_messages_are_parsed() -> None:
    end = gateway_pb2.StreamResultsResponse(end=gateway_pb2.StreamEnd(), cursor="cursor")
    assert wire.read(end.SerializeToString()) == end
    assert wire.read(b"") == gateway_pb2.StreamResultsResponse()


@pytest.mark.parametrize("cut", [1, 3, 5, 9, 20_000, len(OURS), len(OURS) + 6])
def test_half_a_message_is_refused(cut: int) -> None:
    with pytest.raises(message.DecodeError):
        wire.read((put(1, OURS) + CURSOR)[:cut])
