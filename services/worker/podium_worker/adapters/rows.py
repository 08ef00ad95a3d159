"""From a model's float32 vectors to the rows that a job asked for: cut short, made unit length again, encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from podium_worker.domain import encodings

Vectors = npt.NDArray[np.float32]
_TOO_LARGE = "An element of the vector is too large for float16."
_NO_DIRECTION = "The first {} elements of the vector are all zero: they have no direction."


@dataclass(frozen=True, slots=True)
class Rows:
    """What is left of vectors."""

    encoded: npt.NDArray[Any]
    """Little-endian, shape (rows, elements), or (rows, bytes) for bits."""
    lost: dict[int, str]
    """Row -> why it could not be encoded; its bytes mean nothing."""


def make(vectors: Vectors, encoding: encodings.Encoding, *, normalized: bool) -> Rows:
    """Rows of finite vectors, shape (rows, at least encoding.dimensions). `normalized`: they have unit length."""
    lost: dict[int, str] = {}
    if encoding.dimensions < vectors.shape[1]:
        vectors = vectors[:, : encoding.dimensions]
        if normalized:
            vectors, flat = _unit(vectors)
            lost = dict.fromkeys(flat, _NO_DIRECTION.format(encoding.dimensions))
    encoded = _ENCODERS[encoding.dtype](vectors)
    if encoding.dtype is encodings.Dtype.FLOAT16:
        lost |= dict.fromkeys(np.flatnonzero(~np.isfinite(encoded).all(axis=1)).tolist(), _TOO_LARGE)
    return Rows(encoded, lost)


def _unit(vectors: Vectors) -> tuple[Vectors, list[int]]:
    """Each with length 1, and those that have no length."""
    # By their largest element first: the square of a small one would vanish.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    flat = largest[:, 0] == 0
    largest[flat] = 1.0
    scaled = vectors / largest
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    lengths[flat] = 1.0
    return scaled / lengths, np.flatnonzero(flat).tolist()


def _float32(vectors: Vectors) -> npt.NDArray[Any]:
    return vectors.astype("<f4", copy=False)


def _float16(vectors: Vectors) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # What overflows becomes an infinity, and is told.
        return vectors.astype("<f2")


def _int8(vectors: Vectors) -> npt.NDArray[Any]:
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    largest[largest == 0] = 1.0
    scaled: npt.NDArray[Any] = np.rint(vectors / largest * np.float32(127)).astype(np.int8)
    return scaled


def _binary(vectors: Vectors) -> npt.NDArray[Any]:
    return np.packbits(vectors > 0, axis=1)


_ENCODERS = {
    encodings.Dtype.FLOAT32: _float32,
    encodings.Dtype.FLOAT16: _float16,
    encodings.Dtype.INT8: _int8,
    encodings.Dtype.BINARY: _binary,
}
