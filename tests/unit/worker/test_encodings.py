"""Sizes of rows."""

from __future__ import annotations

import pytest

from podium_worker.domain.encodings import Dtype, Encoding


@pytest.mark.parametrize(
    ("dtype", "dimensions", "row_bytes"),
    [
        (Dtype.FLOAT32, 384, 1536),
        (Dtype.FLOAT16, 384, 768),
        (Dtype.INT8, 383, 383),
        (Dtype.BINARY, 384, 48),
        (Dtype.BINARY, 385, 49),
        (Dtype.BINARY, 1, 1),
    ],
)
def test_a_row_is_padded_to_whole_bytes(dtype: Dtype, dimensions: int, row_bytes: int) -> None:
    assert Encoding(dimensions, dtype).row_bytes == row_bytes


def test_a_row_has_an_element() -> None:
    assert Encoding(1).dtype is Dtype.FLOAT32
    with pytest.raises(ValueError, match="at least 1 element"):
        Encoding(0)
