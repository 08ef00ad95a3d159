"""JPEG files to embed, as photographs are: broad shapes, finer and fainter texture, little noise.

Noise alone decodes slower than any photograph, flat colours decode faster. The same arguments give the same picture.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tests.bench import corpus

QUALITY = 90
WEB = ((500, 375), (375, 500), (500, 333))
"""Widths and heights that are common in ImageNet."""
_DIFFERENT = 32
_CELLS = (2, 4, 8, 16, 32, 64, 128, 256)
_STRENGTH = 150.0
_FADING = 0.5
_GRAIN = 6.0


def files(count: int, sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """Photographs of these sizes (width, height) in turn; after _DIFFERENT of them they begin anew."""
    different = min(count, _DIFFERENT)
    made = [photo(*sizes[number % len(sizes)], corpus.SEED + number) for number in range(different)]
    return [made[number % different] for number in range(count)]


def sizes(least: int, most: int) -> list[tuple[int, int]]:
    """Widths and heights, drawn one by one."""
    draw = random.Random(corpus.SEED)
    return [(draw.randint(least, most), draw.randint(least, most)) for _ in range(_DIFFERENT)]


def photo(width: int, height: int, seed: int) -> bytes:
    """One file."""
    draw = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for cells in _CELLS:
        # As in photographs, what is smaller is fainter.
        pixels += _waves(draw, width, height, cells) * (_STRENGTH / cells**_FADING)
    pixels += draw.normal(0, _GRAIN, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _waves(draw: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray[tuple[int, ...], np.dtype]:
    """Smooth between random values on a grid of about `cells` cells along the longer edge."""
    along = [max(2, edge * cells // max(width, height)) for edge in (height, width)]
    # Brightness varies more than colour does.
    grid = draw.normal(0, 0.5, (*along, 1)) + draw.normal(0, 0.2, (*along, 3))
    channels = [
        np.asarray(Image.fromarray(grid[..., channel].astype(np.float32)).resize((width, height)))
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)
