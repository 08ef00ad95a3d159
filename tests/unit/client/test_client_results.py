"""Decoding chunks: shapes, failed items, overlaps, and everything that contradicts itself."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import pytest

from podium.common.v1 import result_pb2, workload_pb2
from podium_client import ProtocolError
from podium_client.results import chunk_from_proto, failure_from_proto, fill

ROWS = np.arange(6, dtype="<f4").reshape(3, 2)


def chunk(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]] = ROWS, failed: tuple[int, ...] = (11,)
) -> result_pb2.ResultChunk:
    data = rows.tobytes()
    return result_pb2.ResultChunk(
        first_item=10, item_count=len(rows) + len(failed), vectors=data, count=len(rows), dimension=rows.shape[1],
        dtype=workload_pb2.DTYPE_FLOAT32, crc32c=google_crc32c.value(data),
        errors=[
            result_pb2.ItemError(item_index=i, reason=result_pb2.ITEM_ERROR_REASON_POISON, message="x") for i in failed
        ],
    )  # fmt: skip


def test_rows_go_to_the_items_that_succeeded() -> None:
    decoded = chunk_from_proto(chunk(), "c")
    rows, ok = np.zeros((20, 2), np.float32), np.zeros(20, np.bool_)
    fill(rows, ok, decoded)
    assert np.flatnonzero(ok).tolist() == [10, 12, 13]
    np.testing.assert_array_equal(rows[[10, 12, 13]], ROWS)
    assert not rows[11].any()
    assert decoded.errors[0].reason == "POISON"


def test_vectors_are_not_copied() -> None:
    message = chunk()
    decoded = chunk_from_proto(message, "c")
    assert not decoded.vectors.flags.owndata
    assert not decoded.vectors.flags.writeable


@pytest.mark.parametrize(("index", "first_rows"), [(9, 0), (10, 0), (11, 1), (12, 1), (13, 2)])
def test_an_overlap_is_cut_off_with_its_rows(index: int, first_rows: int) -> None:
    rest = chunk_from_proto(chunk(), "c").since(index)
    assert rest.end_item == 14
    assert rest.first_item == max(index, 10)
    np.testing.assert_array_equal(rest.vectors, ROWS[first_rows:])
    assert len(rest.errors) == (1 if index <= 11 else 0)
    assert rest.ok().sum() == len(rest.vectors)


def test_a_failed_batch_is_a_chunk_of_errors() -> None:
    message = result_pb2.BatchFailure(first_item=3, item_count=2, reason="BATCH_FAILURE_REASON_OUT_OF_MEMORY")
    decoded = failure_from_proto(message, "c")
    assert [(e.index, e.reason) for e in decoded.errors] == [(3, "OUT_OF_MEMORY"), (4, "OUT_OF_MEMORY")]
    assert not decoded.ok().any()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"item_count": 5}, "3 vectors and 1 errors for 5 items"),
        ({"dimension": 3}, "24 bytes of vectors"),
        ({"crc32c": 1}, "CRC32C"),
        ({"dtype": 9}, "dtype 9 is not known"),
        ({"keys": ["a"]}, "1 keys"),
        ({"first_item": 12}, "errors outside the chunk"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], complaint: str) -> None:
    message = chunk()
    message.MergeFrom(result_pb2.ResultChunk(**change))
    with pytest.raises(ProtocolError, match=complaint):
        chunk_from_proto(message, "c")
