"""Encoded vectors: what a chunk decodes to, and how much of a vector each encoding keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from podium.common.v1 import result_pb2, workload_pb2
from podium_client import Embeddings, Layout, ProtocolError
from podium_client.encodings import DTYPES, Dtype, dtype_to_wire, to_float32, unpack
from podium_client.jobs import embedding_options
from podium_client.results import ResultChunk, chunk_from_proto
from tests.support import fake_gateway

Rows = npt.NDArray[np.float32]


def chunk(rows: npt.NDArray[Any], layout: Layout) -> result_pb2.ResultChunk:
    data = rows.tobytes()
    return result_pb2.ResultChunk(
        first_item=0, item_count=len(rows), vectors=data, count=len(rows), dimension=layout.dimension,
        dtype=dtype_to_wire(layout.dtype), crc32c=google_crc32c.value(data),
    )  # fmt: skip


def decoded(rows: Rows, dtype: Dtype) -> ResultChunk:
    return chunk_from_proto(chunk(fake_gateway.encode(rows, dtype), Layout(rows.shape[1], dtype)), "c")


@st.composite
def unit_rows(draw: st.DrawFn) -> Rows:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 40)))
    element = st.floats(-1, 1, width=32, allow_subnormal=False)
    rows: Rows = draw(arrays.arrays(np.float32, shape, elements=element))
    rows[np.linalg.norm(rows, axis=1) < 1e-3, 0] = 1  # no direction, no vector
    unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@given(unit_rows())
def test_every_encoding_decodes_to_what_it_can_keep(rows: Rows) -> None:
    dimension = rows.shape[1]
    np.testing.assert_array_equal(decoded(rows, "float32").to_float32(), rows)
    half = decoded(rows, "float16")
    assert half.vectors.dtype == np.float16
    np.testing.assert_array_equal(half.to_float32(), rows.astype(np.float16).astype(np.float32))
    byte = decoded(rows, "int8")
    assert byte.vectors.dtype == np.int8
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert np.abs(byte.vectors * scale - rows).max() <= scale.max() * 0.5001
    np.testing.assert_allclose(np.linalg.norm(byte.to_float32(), axis=1), 1, atol=1e-6)
    # Each element is off by half a step at most, so the angle is bounded, too.
    worst = np.sqrt(dimension) * scale * 0.51
    assert ((byte.to_float32() * rows).sum(axis=1, keepdims=True) >= 1 - worst**2).all()
    bit = decoded(rows, "binary")
    assert bit.vectors.shape == (len(rows), -(-dimension // 8))
    layout = Layout(dimension, "binary")
    np.testing.assert_array_equal(unpack(bit.vectors, layout), rows > 0)
    signs = bit.to_float32()
    np.testing.assert_array_equal(signs > 0, rows > 0)
    np.testing.assert_allclose(np.linalg.norm(signs, axis=1), 1, atol=1e-6)


@given(unit_rows(), st.sampled_from(DTYPES), st.integers(0, 6))
def test_an_overlap_keeps_the_encoding(rows: Rows, dtype: Dtype, index: int) -> None:
    whole = decoded(rows, dtype)
    if index < len(rows):
        rest = whole.since(index)
        assert (rest.layout, rest.dtype, rest.dimension) == (whole.layout, dtype, rows.shape[1])
        np.testing.assert_array_equal(rest.vectors, whole.vectors[index:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_copies_nothing(dtype: Dtype) -> None:
    rows = decoded(np.eye(3, 12, dtype=np.float32), dtype).vectors
    assert not rows.flags.owndata
    assert not rows.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_length_that_does_not_fit_the_type_is_refused(dtype: Dtype) -> None:
    layout = Layout(12, dtype)
    message = chunk(layout.zeros(3), layout)
    message.vectors += b"\0"
    with pytest.raises(ProtocolError, match=f"3 rows of 12 {dtype} are {3 * layout.row_bytes}"):
        chunk_from_proto(message, "c")


def test_bits_beyond_the_elements_are_refused() -> None:
    rows = np.array([[0xFF, 0xF0], [0xFF, 0xF8]], np.uint8)
    with pytest.raises(ProtocolError, match="bits beyond the 12 elements"):
        chunk_from_proto(chunk(rows, Layout(12, "binary")), "c")
    assert chunk_from_proto(chunk(rows[:1], Layout(12, "binary")), "c").dimension == 12


@pytest.mark.parametrize(
    ("dtype", "width", "row_bytes"), [("float32", 12, 48), ("float16", 12, 24), ("int8", 12, 12), ("binary", 2, 2)]
)
def test_rows_have_the_size_of_their_type(dtype: Dtype, width: int, row_bytes: int) -> None:
    layout = Layout(12, dtype)
    assert (layout.width, layout.row_bytes, layout.zeros(2).nbytes) == (width, row_bytes, 2 * row_bytes)
    assert not Layout(16, "binary").padding_mask


def test_rows_of_failed_items_are_zero_in_float32_whatever_the_encoding() -> None:
    ok = np.array([True, False])
    for dtype in DTYPES:
        layout = Layout(12, dtype)
        rows = layout.zeros(2)
        rows[0] = fake_gateway.encode(fake_gateway.vectors(["a"]), dtype)[0]
        result = Embeddings(rows, ok, layout=layout)
        assert (result.dimension, result.dtype, result.to_float32().shape) == (12, dtype, (2, 12))
        assert not result.to_float32()[1].any()
        assert (result.to_float32()[0] @ fake_gateway.vector("a")) > 0.7
        assert replace(result, layout=None).dimension == layout.width
    assert result.unpack().dtype == np.bool_


def test_float32_is_handed_on_as_it_is() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert to_float32(rows, Layout(3)) is rows
    assert unpack(rows, Layout(3)) is rows


def test_float32_said_or_not_makes_the_same_job() -> None:
    assert embedding_options(dtype="float32") == embedding_options()
    assert embedding_options(dtype="binary").dtype == workload_pb2.DTYPE_BINARY
    with pytest.raises(ValueError, match="dtype: one of float32, float16, int8, binary"):
        embedding_options(dtype="bfloat16")
    with pytest.raises(ValueError, match="dimensions: at least 1"):
        embedding_options(dimensions=0)
