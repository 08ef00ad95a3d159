"""Cutting the front off a result chunk.

Rare: only when a batch was computed again after its results were lost, its new chunks begin elsewhere, and a
client resumes in the middle of one.
"""

from __future__ import annotations

import google_crc32c

from podium.common.v1 import result_pb2


def from_item(chunk: bytes | bytearray, item: int) -> bytes:
    """The serialized ResultChunk without the items before `item`, which must lie inside of it.

    Rows, errors, truncations, keys and task outputs keep their items; the checksum is that of the rows left.
    """
    message = result_pb2.ResultChunk.FromString(bytes(chunk))
    dropped = item - message.first_item
    failed = sum(1 for error in message.errors if error.item_index < item)
    rows = dropped - failed
    width = len(message.vectors) // message.count if message.count else 0
    message.first_item = item
    message.item_count -= dropped
    if message.vectors:
        message.vectors = message.vectors[rows * width :]
        message.count -= rows
        message.crc32c = google_crc32c.value(message.vectors)
    errors = [error for error in message.errors if error.item_index >= item]
    truncations = [truncation for truncation in message.truncations if truncation.item_index >= item]
    del message.errors[:], message.truncations[:]
    message.errors.extend(errors)
    message.truncations.extend(truncations)
    del message.keys[:dropped]
    del message.task_outputs[:rows]
    return message.SerializeToString()
