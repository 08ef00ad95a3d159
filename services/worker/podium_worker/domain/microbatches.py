"""Cutting one batch into micro-batches: sorted by length, bounded by tokens, restored to order by their indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Items that go through the model together. `width` is the longest of them, in tokens."""

    indices: tuple[int, ...]
    width: int

    @property
    def padded_tokens(self) -> int:
        """Tokens the device sees, padding included."""
        return len(self.indices) * self.width


def cut(lengths: Sequence[int], token_budget: int) -> list[Microbatch]:
    """Cuts items into micro-batches of at most `token_budget` tokens, padding included; longest items first.

    `lengths` are token counts after truncation. An item longer than the budget is alone in its micro-batch. Every index
    appears exactly once. Longest first, so that a budget that does not fit into memory fails at once.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    microbatches: list[Microbatch] = []
    start = 0
    while start < len(order):
        # Sorted downwards, so the first item of a micro-batch sets its width.
        width = max(1, lengths[order[start]])
        rows = max(1, token_budget // width)
        microbatches.append(Microbatch(tuple(order[start : start + rows]), width))
        start += rows
    return microbatches


def halve(token_budget: int) -> int | None:
    """The budget to try after the device ran out of memory; None when it cannot get smaller."""
    return token_budget // 2 if token_budget > 1 else None
