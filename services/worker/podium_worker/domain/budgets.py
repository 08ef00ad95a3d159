"""How much one micro-batch may hold: doubled while that pays, within the memory and the time that there is.

Whoever owns the device runs what `next_size` asks for, and reports it. Sizes are tokens or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A step that brings less than this is no step forward; two of them in a row end the search.
_GAIN = 1.05
# What comes this close to the best is as good, and smaller: cancelled batches end sooner, other models have more room.
_AS_GOOD = 0.97


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a search may cost and find."""

    first: int
    """The size to begin with."""
    most: int
    memory_bytes: int = 0
    """For what a forward pass takes beside the weights; 0: not bounded."""
    seconds: float = 3.0
    """For all that is measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured micro-batch."""

    size: int
    seconds: float
    peak_bytes: int = 0
    """What it took beside the weights at its worst moment."""
    fits: bool = True
    """False: the device ran out of memory, and nothing was measured."""

    @property
    def rate(self) -> float:
        """Tokens or images a second."""
        return self.size / max(self.seconds, 1e-9)


def next_size(bounds: Bounds, samples: Sequence[Sample]) -> int | None:
    """The size to measure after `samples`; None when enough is known."""
    if not samples:
        return bounds.first
    last = samples[-1]
    size = 2 * last.size
    spent = sum(sample.seconds for sample in samples)
    if not last.fits or size > bounds.most or spent + 2 * last.seconds > bounds.seconds or _stalled(samples):
        return None
    return size if _has_room(bounds, samples, size) else None


def found(bounds: Bounds, samples: Sequence[Sample]) -> int:
    """The budget that `samples` speak for: at least 1, never more than twice what was measured."""
    fitting = [sample for sample in samples if sample.fits]
    if not fitting:
        return max(1, bounds.first // 2)
    best = max(sample.rate for sample in fitting)
    enough = min(sample.size for sample in fitting if sample.rate >= best * _AS_GOOD)
    last = samples[-1]
    if enough < last.size or not last.fits or _has_room(bounds, samples, 2 * last.size):
        return enough
    # Memory alone ended it, while bigger was still better: all that is left is taken.
    most = min(2 * last.size, bounds.most)
    return max(size for size in _between(enough, most) if size == enough or _has_room(bounds, samples, size))


def within(seconds_each: float, seconds: float, most: int) -> int:
    """As many as are done in `seconds`, at least one, at most `most`."""
    return max(1, min(most, int(seconds / max(seconds_each, 1e-9))))


def _between(low: int, high: int) -> range:
    """Sizes from `low` to `high` in 16 steps, `low` among them."""
    return range(low, max(low, high) + 1, max(1, (high - low) // 16))


def _stalled(samples: Sequence[Sample]) -> bool:
    """Whether neither of the last two doublings was a step forward; one alone may be noise."""
    if len(samples) < 3:
        return False
    before = max(sample.rate for sample in samples[:-2])
    return max(samples[-2].rate, samples[-1].rate) < before * _GAIN


def _has_room(bounds: Bounds, samples: Sequence[Sample], size: int) -> bool:
    return not bounds.memory_bytes or _peak_bytes(samples, size) <= bounds.memory_bytes


def _peak_bytes(samples: Sequence[Sample], size: int) -> float:
    """What `size` will take, on the line through the last two samples, or from nothing through the only one."""
    last = samples[-1]
    if len(samples) == 1:
        return last.peak_bytes / last.size * size
    before = samples[-2]
    slope = max(0, last.peak_bytes - before.peak_bytes) / (last.size - before.size)
    return last.peak_bytes + slope * (size - last.size)
