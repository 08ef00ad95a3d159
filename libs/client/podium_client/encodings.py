"""How vectors are encoded: the element types, what a row of each looks like, and the way back to float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from podium.common.v1 import workload_pb2

Dtype = Literal["float32", "float16", "int8", "binary"]
Matrix = npt.NDArray[Any]
FloatMatrix = npt.NDArray[np.float32]
BoolMatrix = npt.NDArray[np.bool_]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
_NUMPY: dict[Dtype, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
    "binary": np.dtype("u1"),
}
_TO_WIRE: dict[Dtype, workload_pb2.Dtype] = {
    "float32": workload_pb2.DTYPE_FLOAT32,
    "float16": workload_pb2.DTYPE_FLOAT16,
    "int8": workload_pb2.DTYPE_INT8,
    "binary": workload_pb2.DTYPE_BINARY,
}
_FROM_WIRE: dict[int, Dtype] = {number: name for name, number in _TO_WIRE.items()}


@dataclass(frozen=True, slots=True)
class Layout:
    """How vectors lie in an array of rows. `dimension`: elements of a vector, whatever its encoding.

    float32, float16: (n, dimension) of that type. int8: (n, dimension) int8; a row's largest magnitude is 127, its
    direction is that of the vector, its length is not kept. binary: (n, ceil(dimension / 8)) uint8; a bit is set where
    the element is above 0, most significant bit first, the last byte padded with zeros.
    """

    dimension: int
    dtype: Dtype = "float32"

    @property
    def width(self) -> int:
        """Columns of a row."""
        return -(-self.dimension // 8) if self.dtype == "binary" else self.dimension

    @property
    def numpy(self) -> np.dtype[Any]:
        """Element type of an array of rows."""
        return _NUMPY[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.numpy.itemsize

    @property
    def padding_mask(self) -> int:
        """The bits of a row's last byte that no element has; 0 unless binary."""
        return (1 << -self.dimension % 8) - 1 if self.dtype == "binary" else 0

    def zeros(self, count: int) -> Matrix:
        """(count, width) rows of zeros."""
        return np.zeros((count, self.width), dtype=self.numpy)


def dtype_to_wire(dtype: str) -> workload_pb2.Dtype:
    """The wire's number. ValueError when there is no such type."""
    for name, number in _TO_WIRE.items():
        if name == dtype:
            return number
    raise ValueError(f"dtype: one of {', '.join(DTYPES)}, not {dtype!r}")


def dtype_from_wire(number: int) -> Dtype | None:
    """The type's name; None when this SDK does not know it."""
    return _FROM_WIRE.get(number)


def unpack(rows: Matrix, layout: Layout) -> Matrix:
    """(n, dimension): one element a column. binary: bool, True where the element was above 0; else `rows` itself."""
    if layout.dtype != "binary":
        return rows
    return np.unpackbits(rows, axis=1, count=layout.dimension).view(np.bool_)


def to_float32(rows: Matrix, layout: Layout) -> FloatMatrix:
    """(n, dimension) float32: the vectors as well as the encoding has kept them.

    int8 and binary (+1 where a bit is set, -1 elsewhere) get unit length, since only workloads with vectors of unit
    length have them: a dot product is a cosine in every encoding. A row of int8 zeros stays zero. float32: `rows`
    itself.
    """
    if layout.dtype == "float32":
        return rows
    if layout.dtype == "float16":
        return rows.astype(np.float32)
    if layout.dtype == "binary":
        level = np.float32(1 / np.sqrt(max(layout.dimension, 1)))
        return np.where(unpack(rows, layout), level, -level)
    wide: FloatMatrix = rows.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    np.divide(wide, lengths, out=wide, where=lengths > 0)
    return wide
