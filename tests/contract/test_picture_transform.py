"""Pictures are what open_clip and timm would make of the same pixels, bit for bit.

The references get their image as RGB and upright, with samples of 8 bits: that far their own loaders go (`convert`), or
nobody does (EXIF, 16 bits), and tests/unit/worker/test_decoder_transform.py has the word.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps

from podium_worker.adapters.torch import torchvision_ops
from podium_worker.decoder import transform
from podium_worker.domain import pictures
from tests.support import pictures as files

MAX_PIXELS = 50_000_000
SIZES = [
    (1, 1), (1, 7), (2, 3), (3, 400), (31, 33), (223, 224), (224, 223), (224, 224), (225, 448), (336, 336),
    (375, 500), (500, 375), (511, 1023), (640, 479), (997, 229), (4000, 32), (32, 4000),
]  # fmt: skip
# The part that is cut out of these is all that is computed of them.
LINES = [
    ("open_clip shortest 224", (3, 4000)),
    ("open_clip shortest bilinear", (1, 2000)),
    ("timm 0.9", (500, 1)),
]
# What Pillow decodes to more than 8 bits of gray, and would clip.
DEEP = {kind for kind in files.KINDS if kind.startswith("tiff_") and kind[5:7] in ("16", "32", "fl")}
DEEP = (DEEP - {"tiff_16"}) | {"png_16_gray"}
Transform = Callable[[Image.Image], Any]


def open_clip_transform(size: int | tuple[int, int], mode: str, interpolation: str, fill: int = 0) -> Transform:
    """Up to the scaling to [0, 1]: with mean 0 and deviation 1, nothing comes after it."""
    torchvision_ops.declare_missing()
    import open_clip

    reference: Transform = open_clip.image_transform(
        size, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
        resize_mode=mode, interpolation=interpolation, fill_color=fill,
    )  # fmt: skip
    return reference


def timm_transform(size: int, crop_pct: float, mode: str, interpolation: str) -> Transform:
    torchvision_ops.declare_missing()
    import timm.data

    create_transform: Any = timm.data.create_transform  # type: ignore[attr-defined]
    reference: Transform = create_transform(
        (3, size, size), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
        interpolation=interpolation, crop_pct=crop_pct, crop_mode=mode,
    )  # fmt: skip
    return reference


Case = tuple[pictures.Picture, Transform]
CASES: dict[str, Case] = {
    "open_clip shortest 224": (pictures.Picture(224, 224, 224), open_clip_transform(224, "shortest", "bicubic")),
    "open_clip shortest bilinear": (
        pictures.Picture(64, 64, 64, interpolation="bilinear"),
        open_clip_transform(64, "shortest", "bilinear"),
    ),
    "open_clip longest": (
        pictures.Picture(224, 224, 224, "longest", fill=127),
        open_clip_transform(224, "longest", "bicubic", fill=127),
    ),
    "open_clip squash (SigLIP)": (
        pictures.Picture(384, 384, 384, "squash"),
        open_clip_transform(384, "squash", "bicubic"),
    ),
    "open_clip squash, not square": (
        pictures.Picture(96, 160, 160, "squash", "bilinear"),
        open_clip_transform((96, 160), "squash", "bilinear"),
    ),
    "timm 0.9": (pictures.Picture(224, 224, 248), timm_transform(224, 0.9, "center", "bicubic")),
    "timm 0.875 bilinear": (
        pictures.Picture(224, 224, 256, interpolation="bilinear"),
        timm_transform(224, 0.875, "center", "bilinear"),
    ),
    "timm 1.0": (pictures.Picture(448, 448, 448), timm_transform(448, 1.0, "center", "bicubic")),
    "timm squash": (
        pictures.Picture(224, 224, 224, "squash"),
        timm_transform(224, 1.0, "squash", "bicubic"),
    ),
}


def expected(reference: Transform, image: Image.Image) -> npt.NDArray[np.uint8]:
    scaled: torch.Tensor = reference(image)
    whole = (scaled * 255).round()
    assert torch.allclose(whole, scaled * 255, atol=1e-3)
    picture: npt.NDArray[np.uint8] = whole.to(torch.uint8).permute(1, 2, 0).numpy()
    return picture


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _shapes() -> list[tuple[str, tuple[int, int]]]:
    """Without those of which the reference itself would make an edge of 0 pixels."""
    return [
        (name, size)
        for name, (picture, _) in CASES.items()
        for size in SIZES
        if picture.resize != "longest" or max(size) / min(size) <= 2 * picture.edge
    ]


@pytest.mark.parametrize(("name", "size"), _shapes())
def test_every_shape_becomes_what_the_reference_makes_of_it(name: str, size: tuple[int, int]) -> None:
    picture, reference = CASES[name]
    image = Image.fromarray(files.pixels(*size, seed=sum(size)))
    got = transform.decode(png(image), picture, MAX_PIXELS)
    assert np.array_equal(got, expected(reference, image))


@pytest.mark.parametrize(("name", "size"), LINES)
def test_a_line_that_would_become_enormous_is_the_same_without_becoming_it(name: str, size: tuple[int, int]) -> None:
    picture, reference = CASES[name]
    image = Image.fromarray(files.pixels(*size, seed=1))
    got = transform.decode(png(image), picture, MAX_PIXELS)
    assert np.array_equal(got, expected(reference, image))


@pytest.mark.parametrize("kind", [kind for kind in files.KINDS if kind not in DEEP])
@pytest.mark.parametrize("name", ["open_clip shortest 224", "timm 0.9"])
# Of Pillow, in the reference's conversion; the palette's transparency is dropped either way.
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_kind_of_file_becomes_what_the_reference_makes_of_it_as_rgb(name: str, kind: str) -> None:
    picture, reference = CASES[name]
    data = files.make(kind, 301, 222, seed=3)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(transform.decode(data, picture, MAX_PIXELS), expected(reference, upright))


@pytest.mark.parametrize("kind", ["jpeg", "jpeg_progressive", "jpeg_gray", "png", "png_gray", "png_16", "webp", "bmp"])
def test_where_pixels_need_no_conversion_the_reference_may_open_the_file_itself(kind: str) -> None:
    picture, reference = CASES["open_clip shortest 224"]
    data = files.make(kind, 400, 301, seed=4)
    got = transform.decode(data, picture, MAX_PIXELS)
    assert np.array_equal(got, expected(reference, Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", sorted(DEEP))
def test_gray_of_more_than_8_bits_is_what_the_reference_makes_of_its_highest_8(kind: str) -> None:
    picture, reference = CASES["open_clip shortest 224"]
    green = files.pixels(301, 222, seed=5)[..., 1]
    data = files.make(kind, 301, 222, seed=5)
    image = Image.fromarray(green).convert("RGB")
    assert np.array_equal(transform.decode(data, picture, MAX_PIXELS), expected(reference, image))
