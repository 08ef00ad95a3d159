"""Bytes put together or read by hand, held against the generated classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2, result_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import frames
from podium_runtime import protowire


@given(st.integers(0, 1 << 20), st.integers(0, 5000), st.binary(max_size=300), st.text(max_size=5))
def test_a_relayed_chunk_equals_a_normal_message(first: int, count: int, vectors: bytes, key: str) -> None:
    chunk = result_pb2.ResultChunk(
        job_id="j", first_item=first, item_count=count, vectors=vectors, keys=[key], crc32c=7
    )
    made = frames.chunk_message(chunk.SerializeToString(), b"cursor")
    assert gateway_pb2.StreamResultsResponse.FromString(made) == gateway_pb2.StreamResultsResponse(
        chunk=chunk, cursor="cursor"
    )
    assert made == gateway_pb2.StreamResultsResponse(chunk=chunk, cursor="cursor").SerializeToString()


@given(st.integers(0, 1 << 31), st.integers(0, 5000), st.binary(max_size=300))
def test_the_span_of_a_chunk(first: int, count: int, vectors: bytes) -> None:
    chunk = result_pb2.ResultChunk(
        job_id="j", first_item=first, item_count=count, vectors=vectors, count=3, dimension=4, crc32c=9
    )
    assert frames.span(chunk.SerializeToString()) == (first, count)
    # As workers write it: the vectors first.
    alone = result_pb2.ResultChunk(vectors=vectors).SerializeToString()
    chunk.ClearField("vectors")
    assert frames.span(alone + chunk.SerializeToString()) == (first, count)


def test_the_span_of_a_truncated_message_is_refused() -> None:
    chunk = result_pb2.ResultChunk(job_id="j", first_item=300, item_count=300).SerializeToString()
    with pytest.raises(protowire.Malformed):
        frames.span(chunk[:-1])


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_record_overheads_add_up_to_the_container(texts: list[str]) -> None:
    items = item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts])
    sizes = [item.ByteSize() for item in items.items]
    assert sum(size + frames.record_overhead(size) for size in sizes) == len(items.SerializeToString())


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_record_overhead_is_tag_and_length(size: int) -> None:
    assert frames.record_overhead(size) == 1 + len(protowire.varint(size))
