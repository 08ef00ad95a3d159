"""The `hash` backend: vectors that depend on nothing but the text and the dimension.

For tests and for measuring everything but the model. The function is public and exact, so that anyone can compute the
same bytes locally and compare:

    seed      = blake2b(text, digest_size=8); lo, hi = its two little-endian 32-bit halves
    x(j)      = lo + j * 0x9E3779B9                       (all arithmetic modulo 2**32)
    x         = (x ^ (x >> 16)) * 0x7FEB352D
    x         = x ^ hi ^ (x >> 15)
    x         = x * 0x846CA68B
    x         = x ^ (x >> 16)
    vector[j] = int32(x >> 8 signed) * 2**-23             (float32, exact, in [-1, 1))

Integer operations and one exact scaling: bit-identical on every machine. The vectors are not normalised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from podium_worker.adapters import faults as faults_of
from podium_worker.app import backend

_GOLDEN = np.uint32(0x9E3779B9)
_MULTIPLY_1 = np.uint32(0x7FEB352D)
_MULTIPLY_2 = np.uint32(0x846CA68B)
_SCALE = np.float32(2.0**-23)
# Elements mixed at a time: the two work arrays stay in the second-level cache.
_BLOCK_ELEMENTS = 48 * 1024
# Items between two looks at whether the batch is still wanted.
_MICROBATCH = 512


def hash_vectors(texts: Sequence[bytes], dimension: int) -> npt.NDArray[np.float32]:
    """Vectors of UTF-8 texts: float32, shape (len(texts), dimension), values in [-1, 1).

    Raises ValueError if dimension < 1.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    count = len(texts)
    out = np.empty((count, dimension), dtype=np.float32)
    blake2b = hashlib.blake2b
    digests = b"".join([blake2b(text, digest_size=8).digest() for text in texts])
    seeds = np.frombuffer(digests, dtype="<u4").astype(np.uint32).reshape(count, 2)
    counters = np.arange(dimension, dtype=np.uint32) * _GOLDEN
    rows = max(1, _BLOCK_ELEMENTS // dimension)
    scratch = np.empty((min(rows, count), dimension), dtype=np.uint32)
    for start in range(0, count, rows):
        _fill(out[start : start + rows], seeds[start : start + rows], counters, scratch)
    return out


def _fill(
    out: npt.NDArray[np.float32],
    seeds: npt.NDArray[np.uint32],
    counters: npt.NDArray[np.uint32],
    scratch: npt.NDArray[np.uint32],
) -> None:
    """Mixes in place: the output's own memory holds the integers until the last step."""
    mixed = out.view(np.uint32)
    shifted = scratch[: len(out)]
    np.add(seeds[:, :1], counters, out=mixed)
    np.right_shift(mixed, 16, out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    np.multiply(mixed, _MULTIPLY_1, out=mixed)
    np.right_shift(mixed, 15, out=shifted)
    np.bitwise_xor(shifted, seeds[:, 1:], out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    np.multiply(mixed, _MULTIPLY_2, out=mixed)
    np.right_shift(mixed, 16, out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    signed = mixed.view(np.int32)
    np.right_shift(signed, 8, out=signed)
    np.multiply(signed, _SCALE, out=out, casting="unsafe")


class HashBackend:
    """Serves every workload whose backend is `hash`. `faults` are for tests of the system."""

    def __init__(self, model: backend.Model, faults: faults_of.Faults = faults_of.NONE) -> None:
        if model.dimension < 1:
            raise backend.ModelUnavailable(f"The hash workload {model.workload!r} names no dimension.")
        self._dimension = model.dimension
        self._faults = faults
        self._description = backend.Description(pooling="none", normalized=False, precision="float32")
        faults.strike_load(model.workload)

    @property
    def description(self) -> backend.Description:
        return self._description

    def prepare(self, texts: Sequence[str]) -> backend.Prepared:
        return backend.Prepared(work=[text.encode() for text in texts], item_count=len(texts))

    def compute(self, prepared: backend.Prepared, progress: Callable[[int], bool]) -> backend.Computed:
        texts: list[bytes] = prepared.work
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        rows = self._faults.microbatch or _MICROBATCH
        for start in range(0, len(texts), rows):
            some = texts[start : start + rows]
            self._faults.strike(some)
            vectors[start : start + rows] = hash_vectors(some, self._dimension)
            if not progress(start + len(some)):
                raise backend.Abandoned
        return backend.Computed(vectors=self._faults.poisoned(vectors))
