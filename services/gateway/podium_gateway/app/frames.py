"""The two corners of the protobuf wire format that the relay of results needs.

A result chunk is up to a megabyte that the worker wrote and the client reads; parsing it here would only
cost. So its span is read from the fields around its vectors, and the message around it is put together from bytes.
"""

from __future__ import annotations

from podium_runtime import protowire
from podium_runtime.protowire import varint

# Field numbers in ResultChunk and the two responses; a test holds them against the generated classes.
_FIRST_ITEM, _ITEM_COUNT = 2, 3
_TAG_CHUNK = b"\x0a"
_TAG_CURSOR = b"\x22"
_TAG_DELIVERY_ID = b"\x0a"
_TAG_DELIVERED = b"\x12"


def record_overhead(size: int) -> int:
    """Bytes that the tag and the length add to one element of `repeated Message field = 1`."""
    return 1 + max(1, (size.bit_length() + 6) // 7)


class RecordOverheads(dict[int, int]):
    """record_overhead by size, computed once for each size: a job has many items and few sizes."""

    def __missing__(self, size: int) -> int:
        self[size] = record_overhead(size)
        return self[size]


def chunk_message(chunk: bytes | bytearray, cursor: bytes) -> bytes:
    """A serialized StreamResultsResponse with this serialized ResultChunk and this cursor."""
    return b"".join((_TAG_CHUNK, varint(len(chunk)), chunk, _TAG_CURSOR, varint(len(cursor)), cursor))


def delivery_message(delivery_id: bytes, chunk: bytes | bytearray) -> bytes:
    """A serialized ConsumeResultsResponse with this id and this serialized ResultChunk."""
    return b"".join(
        (_TAG_DELIVERY_ID, varint(len(delivery_id)), delivery_id, _TAG_DELIVERED, varint(len(chunk)), chunk)
    )


def span(chunk: bytes | bytearray) -> tuple[int, int]:
    """(first_item, item_count) of a serialized ResultChunk; a field that is absent is 0. Raises protowire.Malformed."""
    first = position = 0
    while position < len(chunk):
        field = protowire.field(chunk, position, len(chunk))
        position = field.stop
        if field.number == _FIRST_ITEM:
            first = protowire.integer(chunk, field)
        elif field.number == _ITEM_COUNT:
            # But for the vectors, writers go by field number: whatever first_item there is came before.
            return first, protowire.integer(chunk, field)
    return first, 0
