"""Cutting the front off a chunk."""

from __future__ import annotations

import google_crc32c
import numpy
import pytest

from podium.common.v1 import result_pb2, workload_pb2
from podium_gateway.app import trimming


def _chunk() -> result_pb2.ResultChunk:
    """Items 10 to 17; 11 and 15 failed, 12 and 16 were truncated."""
    rows = numpy.array([[n, n] for n in (10, 12, 13, 14, 16, 17)], dtype="<f4").tobytes()
    return result_pb2.ResultChunk(
        job_id="j",
        first_item=10,
        item_count=8,
        vectors=rows,
        count=6,
        dimension=2,
        dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(rows),
        errors=[result_pb2.ItemError(item_index=n) for n in (11, 15)],
        truncations=[result_pb2.Truncation(item_index=n) for n in (12, 16)],
        keys=[f"k{n}" for n in range(10, 18)],
    )


@pytest.mark.parametrize(
    ("item", "rows", "failed", "truncated"),
    [
        (11, [12, 13, 14, 16, 17], [11, 15], [12, 16]),
        (12, [12, 13, 14, 16, 17], [15], [12, 16]),
        (14, [14, 16, 17], [15], [16]),
        (17, [17], [], []),
    ],
)
def test_what_is_left_keeps_its_items(item: int, rows: list[int], failed: list[int], truncated: list[int]) -> None:
    left = result_pb2.ResultChunk.FromString(trimming.from_item(_chunk().SerializeToString(), item))
    assert (left.first_item, left.item_count, left.count) == (item, 18 - item, len(rows))
    assert numpy.frombuffer(left.vectors, "<f4").reshape(-1, 2)[:, 0].tolist() == rows
    assert left.crc32c == google_crc32c.value(left.vectors)
    assert [e.item_index for e in left.errors] == failed
    assert [t.item_index for t in left.truncations] == truncated
    assert list(left.keys) == [f"k{n}" for n in range(item, 18)]


def test_a_chunk_without_any_row() -> None:
    chunk = result_pb2.ResultChunk(
        first_item=0, item_count=3, errors=[result_pb2.ItemError(item_index=n) for n in range(3)], dimension=2
    )
    left = result_pb2.ResultChunk.FromString(trimming.from_item(chunk.SerializeToString(), 2))
    assert (left.first_item, left.item_count, [e.item_index for e in left.errors]) == (2, 1, [2])


def test_task_outputs_follow_the_items_that_succeeded() -> None:
    chunk = result_pb2.ResultChunk(
        first_item=0,
        item_count=4,
        task_outputs=[b"0", b"2", b"3"],
        errors=[result_pb2.ItemError(item_index=1)],
    )
    left = result_pb2.ResultChunk.FromString(trimming.from_item(chunk.SerializeToString(), 2))
    assert list(left.task_outputs) == [b"2", b"3"]
