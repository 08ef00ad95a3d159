"""The `hash` backend: vectors that depend on nothing but the item's bytes and the dimension.

For tests and for measuring everything but the model. The function is public and exact, so that anyone can compute the
same bytes locally and compare:

    seed      = blake2b(item, digest_size=8); lo, hi = its two little-endian 32-bit halves
    x(j)      = lo + j * 0x9E3779B9                       (all arithmetic modulo 2**32)
    x         = (x ^ (x >> 16)) * 0x7FEB352D
    x         = x ^ hi ^ (x >> 15)
    x         = x * 0x846CA68B
    x         = x ^ (x >> 16)
    vector[j] = int32(x >> 8 signed) * 2**-23             (float32, exact, in [-1, 1))

Integer operations and one exact scaling: bit-identical on every machine. The vectors are not normalised, unless the
registry says so: then each is divided by its length, in float32.

The item is the UTF-8 of a text, or the 192 bytes of an image as the model looks at it: squashed to 8 x 8 pixels
(`PICTURE`), RGB, row-major. An image of a single colour keeps it exactly, so the bytes of its picture can be chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from podium_worker.adapters import faults as faults_of
from podium_worker.app import backend
from podium_worker.domain import pictures

PICTURE = pictures.Picture(height=8, width=8, edge=8, resize="squash")
"""What it looks at."""
_GOLDEN = np.uint32(0x9E3779B9)
_MULTIPLY_1 = np.uint32(0x7FEB352D)
_MULTIPLY_2 = np.uint32(0x846CA68B)
_SCALE = np.float32(2.0**-23)
# Elements mixed at a time: the two work arrays stay in the second-level cache.
_BLOCK_ELEMENTS = 48 * 1024
# Items between two looks at whether the batch is still wanted.
_MICROBATCH = 512


def hash_vectors(items: Sequence[bytes], dimension: int) -> npt.NDArray[np.float32]:
    """Vectors of UTF-8 texts or of pictures' bytes: float32, shape (len(items), dimension), values in [-1, 1).

    Raises ValueError if dimension < 1.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    out = np.empty((len(items), dimension), dtype=np.float32)
    _hash_into(out, items)
    return out


def _hash_into(out: npt.NDArray[np.float32], items: Sequence[bytes]) -> None:
    count, dimension = out.shape
    blake2b = hashlib.blake2b
    digests = b"".join([blake2b(item, digest_size=8).digest() for item in items])
    seeds = np.frombuffer(digests, dtype="<u4").astype(np.uint32).reshape(count, 2)
    counters = np.arange(dimension, dtype=np.uint32) * _GOLDEN
    rows = max(1, _BLOCK_ELEMENTS // dimension)
    scratch = np.empty((min(rows, count), dimension), dtype=np.uint32)
    for start in range(0, count, rows):
        _fill(out[start : start + rows], seeds[start : start + rows], counters, scratch)


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
    signed = shifted.view(np.int32)
    np.right_shift(mixed.view(np.int32), 8, out=signed)
    # Integers of 24 bits are exact in float32; multiplied as they are they would be widened to float64 first.
    np.copyto(out, signed, casting="unsafe")
    np.multiply(out, _SCALE, out=out)


class HashBackend:
    """Serves every workload whose backend is `hash`. `faults` are for tests of the system."""

    memory_bytes = 0
    budget = 0

    def __init__(self, model: backend.Model, faults: faults_of.Faults = faults_of.NONE) -> None:
        if model.dimension < 1:
            raise backend.ModelUnavailable(f"The hash workload {model.workload!r} names no dimension.")
        self._dimension = model.dimension
        self._normalized = model.normalized
        self._faults = faults
        self.picture = PICTURE if model.takes_images else None
        self.description = backend.Description(pooling="none", normalized=model.normalized, precision="float32")
        faults.strike_load(model.workload)

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        return backend.Prepared(work=[text.encode() for text in backend.plain(texts)], item_count=len(texts))

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        # Read only when they are computed, as a device's driver may do: whoever lends them must keep them until then.
        return backend.Prepared(work=rows, item_count=len(rows))

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        vectors = np.empty((prepared.item_count, self._dimension), dtype=np.float32)
        size = self._faults.microbatch or _MICROBATCH
        start = 0
        while start < prepared.item_count:
            aboard = company.board(1, prepared.item_count - start, size)
            others = _bytes_of(aboard.riders.work) if aboard.riders is not None else []
            some = _bytes_of(prepared.work[start : start + max(1, aboard.most - len(others))])
            rows = self._made(some, others, vectors[start : start + len(some)])
            company.landed(len(some) + len(others), len(some), rows)
            start += len(some)
            if not progress(start):
                raise backend.Abandoned
        return backend.Computed(vectors=self._faults.poisoned(self._finished(vectors)))

    def _made(
        self, some: Sequence[bytes], others: Sequence[bytes], out: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Fills the rows of the batch's own items, and returns those of the riders."""
        self._faults.strike([*some, *others])
        _hash_into(out, some)
        if not others:
            return out[:0]
        return self._faults.poisoned(self._finished(hash_vectors(others, self._dimension)))

    def _finished(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._normalized:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def close(self) -> None:
        """There is nothing to give back."""


def _bytes_of(items: Sequence[bytes] | npt.NDArray[np.uint8]) -> list[bytes]:
    return [item if isinstance(item, bytes) else item.tobytes() for item in items]
