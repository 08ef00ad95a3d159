"""Alternating rounds: A B A B ..., so that whatever else the machine does falls on both alike."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Measurement = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with what it was taken from."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest. ValueError when there are none."""
    if not values:
        raise ValueError("no rounds")
    return Spread(statistics.median(values), min(values), max(values), tuple(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of each round the quotient; its median is not the quotient of the medians, and closer to the truth on a
    machine that drifts."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the sorted values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def alternate(runs: Mapping[str, Measurement], rounds: int) -> dict[str, list[float]]:
    """Each run once to warm up, then all of them in turn, `rounds` times. Nothing overlaps."""
    for name, run in runs.items():
        _note(f"warm-up {name}: {await run():,.4g}")
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            figures[name].append(await run())
        _note(f"round {number + 1}: " + ", ".join(f"{name} {taken[-1]:,.4g}" for name, taken in figures.items()))
    return figures


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
