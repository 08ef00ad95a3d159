"""Checks of a result before it is passed on: shape, checksum, finiteness. Nothing else is looked at."""

from __future__ import annotations

import google_crc32c
import numpy as np

from podium.common.v1 import result_pb2, workload_pb2

_ITEM_BYTES = {workload_pb2.DTYPE_FLOAT32: 4}


def problem(chunk: result_pb2.ResultChunk, *, next_item: int, end_item: int, dimension: int) -> str | None:
    """What is wrong with a chunk that should begin at `next_item` of a batch that ends at `end_item`; None if nothing.

    `vectors` must hold `count` rows of `dimension` little-endian float32 values, all finite.
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
    if chunk.dimension != dimension:
        return f"dimension {chunk.dimension}, the workload's is {dimension}"
    width = _ITEM_BYTES.get(chunk.dtype)
    if width is None:
        return f"dtype {chunk.dtype} was not asked for"
    if len(chunk.vectors) != chunk.count * chunk.dimension * width:
        return f"{len(chunk.vectors)} bytes for {chunk.count} rows of {chunk.dimension} x {width} bytes"
    if google_crc32c.value(chunk.vectors) != chunk.crc32c:
        return "the checksum does not match"
    if not np.isfinite(np.frombuffer(chunk.vectors, dtype="<f4")).all():
        return "a vector holds a NaN or an infinity"
    return None


def _each_within(chunk: result_pb2.ResultChunk, first: int) -> bool:
    named = {t.item_index for t in chunk.truncations}
    return len(named) == len(chunk.truncations) and all(first <= i < first + chunk.item_count for i in named)
