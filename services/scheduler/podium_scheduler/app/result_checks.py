"""Checks of a result before it is passed on: shape, checksum, finiteness. Nothing else is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.worker.v1 import worker_pb2

_BITS = {
    workload_pb2.DTYPE_FLOAT32: 32,
    workload_pb2.DTYPE_FLOAT16: 16,
    workload_pb2.DTYPE_INT8: 8,
    workload_pb2.DTYPE_BINARY: 1,
}
_FLOATS = {workload_pb2.DTYPE_FLOAT32: "<f4", workload_pb2.DTYPE_FLOAT16: "<f2"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What each vector of a job has to be."""

    dtype: workload_pb2.Dtype
    dimension: int

    @property
    def row_bytes(self) -> int:
        """A row, padded to whole bytes. Raises KeyError for a dtype that is none of this version's."""
        return (self.dimension * _BITS[self.dtype] + 7) // 8


def asked_by(options: item_pb2.EmbeddingOptions, workload: workload_pb2.Workload | None) -> Asked:
    """What a job with these options asked for; a lease that was resumed may outlive its workload's registry entry."""
    dtype = options.dtype if options.HasField("dtype") else workload_pb2.DTYPE_FLOAT32
    whole = workload.dimension if workload else 0
    return Asked(dtype, options.dimensions if workload and options.HasField("dimensions") else whole)


def problem(
    chunk: result_pb2.ResultChunk, vectors: npt.NDArray[np.uint8], *, next_item: int, end_item: int, asked: Asked
) -> str | None:
    """What is wrong with a chunk that should begin at `next_item` of a batch that ends at `end_item`; None if nothing.

    `vectors`, the chunk's own as bytes, shape (bytes,), must hold `count` rows of the dtype and the dimension that the
    job asked for; floats must be finite. Those of `chunk` itself are not looked at.
    """
    if chunk.first_item != next_item or chunk.item_count < 1 or next_item + chunk.item_count > end_item:
        return f"covers items {chunk.first_item}+{chunk.item_count}, expected a run from {next_item} to {end_item}"
    if chunk.count != chunk.item_count - len(chunk.errors):
        return f"{chunk.count} rows and {len(chunk.errors)} errors for {chunk.item_count} items"
    if any(not next_item <= e.item_index < next_item + chunk.item_count for e in chunk.errors):
        return "an error names an item outside of the chunk"
    if len({e.item_index for e in chunk.errors}) != len(chunk.errors):
        return "two errors name the same item"
    if not _each_within(chunk, next_item):
        return "a truncation names an item outside of the chunk, or one twice"
    return _vectors(chunk, vectors, asked)


def problem_of_call(answer: worker_pb2.EmbedAnswer, item_count: int, asked: Asked) -> str | None:
    """What is wrong with the answer to an interactive call of `item_count` items; None if nothing."""
    chunk = answer.chunk
    if chunk.item_count != item_count:
        return f"covers {chunk.item_count} items, the call has {item_count}"
    if answer.token_counts and len(answer.token_counts) != item_count:
        return f"{len(answer.token_counts)} token counts for {item_count} items"
    vectors = np.frombuffer(chunk.vectors, np.uint8)
    return problem(chunk, vectors, next_item=0, end_item=item_count, asked=asked)


def _vectors(chunk: result_pb2.ResultChunk, vectors: npt.NDArray[np.uint8], asked: Asked) -> str | None:
    if chunk.dimension != asked.dimension:
        return f"dimension {chunk.dimension}, the job's is {asked.dimension}"
    if chunk.dtype != asked.dtype or asked.dtype not in _BITS:
        return f"{_name(chunk.dtype)} was not asked for: the job's vectors are {_name(asked.dtype)}"
    if len(vectors) != chunk.count * asked.row_bytes:
        return f"{len(vectors)} bytes for {chunk.count} rows of {asked.row_bytes} bytes"
    if google_crc32c.value(vectors) != chunk.crc32c:
        return "the checksum does not match"
    code = _FLOATS.get(asked.dtype)
    if code is not None and not np.isfinite(np.frombuffer(vectors, dtype=code)).all():
        return "a vector holds a NaN or an infinity"
    return None


def _name(dtype: int) -> str:
    number = workload_pb2.Dtype.DESCRIPTOR.values_by_number.get(dtype)
    return number.name.removeprefix("DTYPE_") if number else f"dtype {dtype}"


def _each_within(chunk: result_pb2.ResultChunk, first: int) -> bool:
    named = {t.item_index for t in chunk.truncations}
    return len(named) == len(chunk.truncations) and all(first <= i < first + chunk.item_count for i in named)
