"""Cutting one batch into micro-batches: sorted by length, bounded by tokens, restored to order by their indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Items that go through the model together. `width` is the longest of them, in tokens."""

    indices: tuple[int, ...]
    width: int
    riders: int = 0
    """Rows of others that ride along, behind the batch's own."""

    @property
    def padded_tokens(self) -> int:
        """Tokens the device sees, padding included."""
        return (len(self.indices) + self.riders) * self.width


class Remaining:
    """The items of a batch that are still to be computed, longest first: a budget that does not fit into memory fails
    at once, and the next micro-batch may always be of another size than the one before."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths` are token counts after truncation."""
        self._lengths = lengths
        self._order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        self._start = 0

    def __len__(self) -> int:
        return len(self._order) - self._start

    @property
    def width(self) -> int:
        """Of the longest item; there has to be one."""
        return max(1, self._lengths[self._order[self._start]])

    def take(self, most: int, beside: Sequence[int] = ()) -> Microbatch:
        """The next micro-batch: at most `most` tokens, padding included, or a single item that is longer.

        `beside`: lengths of riders, which take their place in it. Raises ValueError for `most` below 1.
        """
        if most < 1:
            raise ValueError(f"a micro-batch holds at least 1 token, got {most}")
        width = max(self.width, max(beside, default=0))
        rows = max(1, most // width - len(beside))
        start, self._start = self._start, min(len(self._order), self._start + rows)
        return Microbatch(tuple(self._order[start : self._start]), width, len(beside))

    def put_back(self, cut: Microbatch) -> None:
        """The micro-batch that was taken last was not computed: its items are the next again."""
        self._start -= len(cut.indices)
