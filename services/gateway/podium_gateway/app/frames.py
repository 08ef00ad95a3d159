"""The two corners of the protobuf wire format that the relay of results needs.

A result chunk is up to a megabyte that the worker wrote and the client reads; parsing it here would only
cost. So its span is read from its first bytes, and the message around it is put together from bytes.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Field numbers in ResultChunk and the two responses; a test holds them against the generated classes.
_FIRST_ITEM, _ITEM_COUNT = 2, 3
_TAG_CHUNK = b"\x0a"
_TAG_CURSOR = b"\x22"
_TAG_DELIVERY_ID = b"\x0a"
_TAG_DELIVERED = b"\x12"


class BadFrame(ValueError):
    """The bytes are not a protobuf message."""


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record_overhead(size: int) -> int:
    """Bytes that the tag and the length add to one element of `repeated Message field = 1`."""
    return 1 + max(1, (size.bit_length() + 6) // 7)


class RecordOverheads(dict[int, int]):
    """record_overhead by size, computed once for each size: a job has many items and few sizes."""

    def __missing__(self, size: int) -> int:
        self[size] = record_overhead(size)
        return self[size]


def chunk_message(chunk: bytes, cursor: bytes) -> bytes:
    """A serialized StreamResultsResponse with this serialized ResultChunk and this cursor."""
    return b"".join((_TAG_CHUNK, varint(len(chunk)), chunk, _TAG_CURSOR, varint(len(cursor)), cursor))


def delivery_message(delivery_id: bytes, chunk: bytes) -> bytes:
    """A serialized ConsumeResultsResponse with this id and this serialized ResultChunk."""
    return b"".join(
        (_TAG_DELIVERY_ID, varint(len(delivery_id)), delivery_id, _TAG_DELIVERED, varint(len(chunk)), chunk)
    )


def span(chunk: bytes) -> tuple[int, int]:
    """(first_item, item_count) of a serialized ResultChunk; a field that is absent is 0. Raises BadFrame."""
    first = count = position = 0
    try:
        while position < len(chunk):
            tag, position = _read_varint(chunk, position)
            field, kind = tag >> 3, tag & 7
            if kind != _VARINT:
                position = _skip(chunk, position, kind)
                continue
            value, position = _read_varint(chunk, position)
            if field == _FIRST_ITEM:
                first = value
            elif field == _ITEM_COUNT:
                # Writers go by field number, so whatever first_item there is came before.
                return first, value
    except IndexError as error:
        raise BadFrame("the message ends too early") from error
    return first, count


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _skip(data: bytes, position: int, kind: int) -> int:
    if kind == _LENGTH:
        length, position = _read_varint(data, position)
        return position + length
    if kind == _FIXED32:
        return position + 4
    if kind == _FIXED64:
        return position + 8
    raise BadFrame(f"wire type {kind} is not one")
