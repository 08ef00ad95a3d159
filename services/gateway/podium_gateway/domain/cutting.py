"""How a job is cut into batches: arithmetic on record sizes, a few steps per batch and none per item in
Python."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Slice:
    """Items [first, first + count) of a job, which are bytes [start, stop) of its serialized items."""

    first: int
    count: int
    start: int
    stop: int


def cut(sizes: Sequence[int], max_items: int, max_bytes: int) -> list[Slice]:
    """Cuts items of the given serialized sizes, in order, into slices of at most `max_items` items and
    `max_bytes`.

    An item larger than `max_bytes` is a slice of its own. A bound of 0 does not bind.
    """
    ends = list(accumulate(sizes, initial=0))
    total = len(sizes)
    slices: list[Slice] = []
    first = 0
    while first < total:
        last = min(first + max_items, total) if max_items else total
        if max_bytes and ends[last] - ends[first] > max_bytes:
            fitting = bisect_right(ends, ends[first] + max_bytes, first, last + 1) - 1
            last = max(fitting, first + 1)
        slices.append(Slice(first, last - first, ends[first], ends[last]))
        first = last
    return slices
