"""Frames of workers off the wire: whatever their layout, they mean what the parser says."""

from __future__ import annotations

import pytest
from google.protobuf import message

from podium.common.v1 import result_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import protowire
from podium_scheduler.adapters.grpc import worker_wire
from podium_scheduler.app import result_frames

LEASE = worker_pb2.Lease(batch_id=7, lease_token=b"t" * 16, attempt=2)
VECTORS = bytes(range(256)) * 3
REST = result_pb2.ResultChunk(
    job_id="job", first_item=300, item_count=3, count=3, dimension=64, keys=["a", "b", "c"], crc32c=0x2204, attempt=2
)


def put(number: int, value: bytes) -> bytes:
    return protowire.opening(number, len(value)) + value


def framed(chunk: bytes, *, after: bytes = b"") -> bytes:
    return put(3, put(1, LEASE.SerializeToString()) + put(2, chunk) + after)


def whole() -> result_pb2.ResultChunk:
    chunk = result_pb2.ResultChunk(vectors=VECTORS)
    chunk.MergeFrom(REST)
    return chunk


FIRST = put(4, VECTORS) + REST.SerializeToString()
LAYOUTS = {
    "vectors first": framed(FIRST),
    "by field number": framed(whole().SerializeToString()),
    "vectors last": framed(REST.SerializeToString() + put(4, VECTORS)),
    "vectors twice": framed(put(4, b"other") + REST.SerializeToString() + put(4, VECTORS)),
    "chunk twice": framed(put(4, b"other") + REST.SerializeToString(), after=put(2, FIRST)),
    "a field of a newer worker": framed(FIRST + put(99, b"news"), after=put(98, b"news")),
    "chunk before lease": put(3, put(2, FIRST) + put(1, LEASE.SerializeToString())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_means_what_the_parser_says(layout: str) -> None:
    data = LAYOUTS[layout]
    parsed = worker_pb2.WorkerFrame.FromString(data).chunk
    found = worker_wire.read(data)
    assert isinstance(found, result_frames.ResultFrame)
    assert found.lease == parsed.lease == LEASE
    assert found.vectors.tobytes() == parsed.chunk.vectors == VECTORS
    assert result_pb2.ResultChunk.FromString(bytes(found.serialized)) == parsed.chunk
    assert not found.chunk.vectors
    assert (found.chunk.first_item, list(found.chunk.keys)) == (300, list(parsed.chunk.keys))


def test_our_own_layout_is_not_serialized_again() -> None:
    found = worker_wire.read(LAYOUTS["vectors first"])
    assert isinstance(found, result_frames.ResultFrame)
    assert found.serialized.obj is LAYOUTS["vectors first"]


def test_other_frames_are_parsed() -> None:
    frame = worker_pb2.WorkerFrame(done=worker_pb2.BatchDone(lease=LEASE, chunk_count=1))
    assert worker_wire.read(frame.SerializeToString()) == frame


def test_a_chunk_without_vectors_is_a_chunk() -> None:
    found = worker_wire.read(framed(b""))
    assert isinstance(found, result_frames.ResultFrame)
    assert len(found.vectors) == 0


@pytest.mark.parametrize("data", [LAYOUTS["vectors first"][:-1], b"\xff" * 30, b"\x1a\x05\x0a"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(message.DecodeError):
        worker_wire.read(data)
