"""A part of an enlarged image without the rest of it, equal to Pillow's `resize` followed by `crop`.

Pillow enlarges in two passes, along the rows and then along the columns; each result is a weighted sum of neighbours in
fixed point, rounded to 8 bits in between. The sums for the wanted rows and columns are all that is computed here. Its
own `resize(box=...)` would do, but it keeps the box in single precision. Source: Pillow's src/libImaging/Resample.c.

Not for images that shrink: they need no such care, and since Pillow 13 some of them take the passes the other way.
`nearest` may differ where a centre falls between two pixels: Pillow sums steps up, and so their rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from podium_worker.domain import pictures

_PRECISION_BITS = 22
_SUPPORT = {"bicubic": 2, "bilinear": 1}
"""How far a neighbour may be."""


@dataclass(frozen=True, slots=True)
class _Taps:
    """For each wanted output position: the neighbours, shape (count, taps), and their weights in fixed point."""

    sources: npt.NDArray[np.intp]
    weights: npt.NDArray[np.int32]

    @property
    def span(self) -> tuple[int, int]:
        return int(self.sources.min()), int(self.sources.max()) + 1

    def apply(self, lines: npt.NDArray[np.uint8], first: int) -> npt.NDArray[np.uint8]:
        """Along axis 1 of (lines, pixels, 3), whose pixels begin at `first`."""
        sums = np.full((len(lines), len(self.sources), 3), 1 << (_PRECISION_BITS - 1), dtype=np.int32)
        for tap in range(self.sources.shape[1]):
            sums += lines[:, self.sources[:, tap] - first] * self.weights[:, tap, None]
        pixels: npt.NDArray[np.uint8] = np.clip(sums >> _PRECISION_BITS, 0, 255).astype(np.uint8)
        return pixels


def enlarged(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: pictures.Interpolation,
) -> Image.Image:
    """`image` (RGB) resized to `size` (width, height), of that the part (left, upper, right, lower).

    Neither edge may shrink.
    """
    columns = _taps(image.width, size[0], box[0], box[2], interpolation)
    rows = _taps(image.height, size[1], box[1], box[3], interpolation)
    (left, right), (upper, lower) = columns.span, rows.span
    pixels = np.asarray(image.crop((left, upper, right, lower)))
    wide = columns.apply(pixels, left)
    return Image.fromarray(rows.apply(wide.swapaxes(0, 1), upper).swapaxes(0, 1).copy())


def _taps(have: int, want: int, start: int, stop: int, interpolation: pictures.Interpolation) -> _Taps:
    """Of the positions [start, stop) when `have` pixels become `want`."""
    scale = have / want
    centres = (np.arange(start, stop) + 0.5) * scale
    if interpolation == "nearest":
        return _Taps(centres.astype(np.intp)[:, None], np.full((stop - start, 1), 1 << _PRECISION_BITS, dtype=np.int32))
    support = _SUPPORT[interpolation]
    firsts = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.intp), have)
    sources = firsts[:, None] + np.arange(2 * support + 1)
    kernel = _bicubic if interpolation == "bicubic" else _bilinear
    weights = np.where(sources < ends[:, None], kernel(sources - centres[:, None] + 0.5), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * (1 << _PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return _Taps(np.minimum(sources, have - 1), fixed)


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bilinear(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)
