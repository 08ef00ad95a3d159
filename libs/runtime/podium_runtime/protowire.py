"""The corners of the protobuf wire format that let a large `bytes` field travel without being copied.

A parser copies such a field into its arena, each look at it makes another copy, and serializing one or two more. So
messages around vectors are put together from their parts, and taken apart by looking at their first fields only.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MAX_SHIFT = 63


class Malformed(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """A field of a serialized message: its tag begins at `tag_at`, its value (without a length) is [start, stop)."""

    number: int
    kind: int
    tag_at: int
    start: int
    stop: int


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def opening(number: int, size: int) -> bytes:
    """Tag and length that come before a value of `size` bytes."""
    return varint(number << 3 | LENGTH) + varint(size)


def field(data: bytes | bytearray, at: int, end: int) -> Field:
    """The field whose tag is at `at` of a message that ends at `end`. Raises Malformed."""
    tag, start = _read_varint(data, at, end)
    number, kind = tag >> 3, tag & 7
    if kind == VARINT:
        _, stop = _read_varint(data, start, end)
    elif kind == LENGTH:
        size, start = _read_varint(data, start, end)
        stop = start + size
    elif kind in (FIXED32, FIXED64):
        stop = start + (4 if kind == FIXED32 else 8)
    else:
        raise Malformed(f"wire type {kind} is not one")
    if stop > end or number < 1:
        raise Malformed("a field reaches beyond the end of its message")
    return Field(number, kind, at, start, stop)


def integer(data: bytes | bytearray, of: Field) -> int:
    """The value of a field of the kind VARINT. Raises Malformed for another."""
    if of.kind != VARINT:
        raise Malformed(f"field {of.number} is no integer")
    return _read_varint(data, of.start, of.stop)[0]


def _read_varint(data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift <= _MAX_SHIFT:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Malformed("an integer does not end")
