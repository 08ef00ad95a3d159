"""How long a micro-batch takes on one device, by its size: what was measured, and lines between.

Sizes are what the budget counts, padding included. A pass costs something however small it is, and a device may like
some sizes better than others, so no one rate tells: one point for each doubling of the size, and straight lines from
one to the next. Below the smallest known size time is taken to be in proportion, which is too little: so that small
passes are tried, and known from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Of a new measurement in what is known of its size.
_WEIGHT = 0.25
_FORGOTTEN_S = 60.0
"""What is so much older than the newest measurement speaks for another time: the machine may have other work now."""


@dataclass(frozen=True, slots=True)
class _Point:
    size: float
    seconds: float
    at: float


@dataclass(slots=True)
class Pace:
    """Of one workload on one device. Times are of one monotonic clock, in seconds."""

    _points: dict[int, _Point] = field(default_factory=dict)
    _line: list[tuple[float, float]] = field(default_factory=list)
    """Sizes and seconds, both ascending."""

    def observe(self, size: int, seconds: float, now: float) -> None:
        """A micro-batch of `size` (from 1) took so long."""
        place = size.bit_length()
        old = self._points.get(place)
        weight = 1.0 if old is None or now - old.at > _FORGOTTEN_S else _WEIGHT
        before = old or _Point(size, seconds, now)
        self._points[place] = _Point(
            before.size + weight * (size - before.size), before.seconds + weight * (seconds - before.seconds), now
        )
        self._points = {n: p for n, p in self._points.items() if now - p.at <= _FORGOTTEN_S}
        self._draw()

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._line)

    def seconds(self, size: int) -> float:
        """What a micro-batch of `size` takes; never less than a smaller one. 0 while nothing is known."""
        if size <= 0 or not self._line:
            return 0.0
        below = (0.0, 0.0)
        for point in self._line:
            if size <= point[0]:
                share = (size - below[0]) / (point[0] - below[0])
                return below[1] + share * (point[1] - below[1])
            below = point
        return below[1] * size / below[0]

    def within(self, seconds: float, most: int) -> int:
        """The largest size that is done in so many seconds: at least 1, at most `most`."""
        low, high = 1, max(1, most)
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _draw(self) -> None:
        """Whatever a measurement says, more takes no less."""
        longest = 0.0
        self._line = []
        for place in sorted(self._points):
            point = self._points[place]
            longest = max(longest, point.seconds)
            self._line.append((point.size, longest))
