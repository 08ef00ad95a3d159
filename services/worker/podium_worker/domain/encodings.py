"""What the rows of a job look like: how many elements of a vector, each in what type."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Dtype(enum.Enum):
    """Element type of a row; the names are those of the contract without their prefix."""

    FLOAT32 = "FLOAT32"
    FLOAT16 = "FLOAT16"
    INT8 = "INT8"
    """The row's direction, scaled so that its largest magnitude is 127."""
    BINARY = "BINARY"
    """One bit an element: set where it is above 0. A row is padded to whole bytes."""


_BITS = {Dtype.FLOAT32: 32, Dtype.FLOAT16: 16, Dtype.INT8: 8, Dtype.BINARY: 1}


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a job asked for, or its workload's default. Raises ValueError if `dimensions` is below 1."""

    dimensions: int
    """Elements of a row: all of a vector's, or the first so many."""
    dtype: Dtype = Dtype.FLOAT32

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ValueError(f"a row has at least 1 element, not {self.dimensions}")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return -(-self.dimensions * _BITS[self.dtype] // 8)
