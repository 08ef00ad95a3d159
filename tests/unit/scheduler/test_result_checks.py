"""What the scheduler refuses of a worker's result."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from podium.common.v1 import result_pb2, workload_pb2
from podium_scheduler.app import result_checks


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


def problem(made: result_pb2.ResultChunk) -> str | None:
    return result_checks.problem(made, next_item=10, end_item=14, dimension=3)


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
        (chunk(ROWS, dtype=workload_pb2.DTYPE_INT8), "dtype"),
        (chunk(ROWS, crc32c=1), "checksum"),
        (chunk(ROWS, vectors=b"\0" * 40), "40 bytes"),
    ],
)
def test_a_wrong_shape_or_checksum_is_refused(made: result_pb2.ResultChunk, words: str) -> None:
    assert words in (problem(made) or "")
