"""What the scheduler refuses of a worker's result."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium_scheduler.app import result_checks

FLOAT32 = result_checks.Asked(workload_pb2.DTYPE_FLOAT32, 3)


def chunk(rows: np.ndarray, *, errors: tuple[int, ...] = (), **changes: object) -> result_pb2.ResultChunk:
    packed = rows.astype("<f4").tobytes()
    made = result_pb2.ResultChunk(
        first_item=10,
        item_count=len(rows) + len(errors),
        vectors=packed,
        count=len(rows),
        dimension=rows.shape[1],
        dtype=workload_pb2.DTYPE_FLOAT32,
        crc32c=google_crc32c.value(packed),
        errors=[result_pb2.ItemError(item_index=index) for index in errors],
    )
    made.MergeFrom(result_pb2.ResultChunk(**changes))  # type: ignore[arg-type]
    return made


def problem(made: result_pb2.ResultChunk, asked: result_checks.Asked = FLOAT32) -> str | None:
    vectors = np.frombuffer(made.vectors, np.uint8)
    return result_checks.problem(made, vectors, next_item=10, end_item=14, asked=asked)


ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_a_right_chunk_passes() -> None:
    assert problem(chunk(ROWS)) is None
    assert problem(chunk(ROWS[:2])) is None
    assert problem(chunk(ROWS[:3], errors=(12,))) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    rows = ROWS.copy()
    rows[2, 1] = bad
    assert "NaN" in (problem(chunk(rows)) or "")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (chunk(ROWS, first_item=11), "expected a run from 10"),
        (chunk(np.zeros((5, 3), np.float32)), "expected a run from 10 to 14"),
        (chunk(ROWS[:, :2]), "dimension 2"),
        (chunk(ROWS, count=3), "3 rows"),
        (chunk(ROWS[:3], errors=(20,)), "outside"),
        (chunk(ROWS[:2], errors=(12, 12)), "two errors"),
        (chunk(ROWS, truncations=[result_pb2.Truncation(item_index=14)]), "truncation"),
        (chunk(ROWS, truncations=[result_pb2.Truncation(item_index=10)] * 2), "truncation"),
        (chunk(ROWS, dtype=workload_pb2.DTYPE_INT8), "INT8 was not asked for: the job's vectors are FLOAT32"),
        (chunk(ROWS, dtype=77), "dtype 77 was not asked for"),
        (chunk(ROWS, crc32c=1), "checksum"),
        (chunk(ROWS, vectors=b"\0" * 40), "40 bytes"),
    ],
)
def test_a_wrong_shape_or_checksum_is_refused(made: result_pb2.ResultChunk, words: str) -> None:
    assert words in (problem(made) or "")


def packed(dtype: workload_pb2.Dtype, dimension: int, vectors: bytes, rows: int = 2) -> result_pb2.ResultChunk:
    return result_pb2.ResultChunk(
        first_item=10,
        item_count=rows,
        vectors=vectors,
        count=rows,
        dimension=dimension,
        dtype=dtype,
        crc32c=google_crc32c.value(vectors),
    )


@pytest.mark.parametrize(
    ("dtype", "dimension", "row_bytes"),
    [
        (workload_pb2.DTYPE_FLOAT32, 5, 20),
        (workload_pb2.DTYPE_FLOAT16, 5, 10),
        (workload_pb2.DTYPE_INT8, 5, 5),
        (workload_pb2.DTYPE_BINARY, 5, 1),
        (workload_pb2.DTYPE_BINARY, 8, 1),
        (workload_pb2.DTYPE_BINARY, 9, 2),
    ],
)
def test_rows_are_as_wide_as_their_encoding(dtype: workload_pb2.Dtype, dimension: int, row_bytes: int) -> None:
    asked = result_checks.Asked(dtype, dimension)
    assert asked.row_bytes == row_bytes
    assert problem(packed(dtype, dimension, b"\x00" * row_bytes * 2), asked) is None
    for length in (row_bytes * 2 - 1, row_bytes * 2 + 1, 0):
        wrong = problem(packed(dtype, dimension, b"\x00" * length), asked)
        assert wrong == f"{length} bytes for 2 rows of {row_bytes} bytes"
    other = workload_pb2.DTYPE_INT8 if dtype != workload_pb2.DTYPE_INT8 else workload_pb2.DTYPE_BINARY
    assert "was not asked for" in (problem(packed(other, dimension, b"\x00" * row_bytes * 2), asked) or "")
    assert "the job's is" in (problem(packed(dtype, dimension + 1, b"\x00" * row_bytes * 2), asked) or "")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float16_is_finite_too(bad: float) -> None:
    asked = result_checks.Asked(workload_pb2.DTYPE_FLOAT16, 3)
    rows = np.ones((2, 3), "<f2")
    assert problem(packed(workload_pb2.DTYPE_FLOAT16, 3, rows.tobytes()), asked) is None
    rows[1, 2] = bad
    assert "NaN" in (problem(packed(workload_pb2.DTYPE_FLOAT16, 3, rows.tobytes()), asked) or "")


def test_any_byte_is_a_vector_where_there_are_no_floats() -> None:
    for dtype in (workload_pb2.DTYPE_INT8, workload_pb2.DTYPE_BINARY):
        asked = result_checks.Asked(dtype, 8)
        assert problem(packed(dtype, 8, b"\xff" * asked.row_bytes * 2), asked) is None


def test_what_a_job_asked_for() -> None:
    workload = workload_pb2.Workload(dimension=384)
    asked = result_checks.asked_by
    assert asked(item_pb2.EmbeddingOptions(), workload) == result_checks.Asked(workload_pb2.DTYPE_FLOAT32, 384)
    options = item_pb2.EmbeddingOptions(dtype=workload_pb2.DTYPE_BINARY, dimensions=64)
    assert asked(options, workload) == result_checks.Asked(workload_pb2.DTYPE_BINARY, 64)
    # Of a workload that has left the registry nothing is taken.
    assert asked(options, None).dimension == 0
