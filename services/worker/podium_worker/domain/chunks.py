"""Cutting one batch's outcome into result chunks at item boundaries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Items [start, stop) of a batch."""

    start: int
    stop: int


def cut(item_count: int, row_bytes: int, max_chunk_bytes: int) -> list[Span]:
    """Spans of as many items as fit into `max_chunk_bytes` of vectors, at least one each; covers all items once."""
    if item_count < 1 or row_bytes < 1:
        raise ValueError(f"nothing to cut: {item_count} items of {row_bytes} bytes")
    items = max(1, max_chunk_bytes // row_bytes)
    return [Span(start, min(start + items, item_count)) for start in range(0, item_count, items)]
