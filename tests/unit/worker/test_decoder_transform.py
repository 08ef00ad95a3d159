"""What a decoder makes of files: upright, in the right colours, or refused with the right reason."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from podium_worker.decoder import transform, window
from podium_worker.domain import pictures, problems
from tests.support import pictures as files

SQUARE = pictures.Picture(224, 224, 224)
MAX_PIXELS = 50_000_000
LYING = {"jpeg_exif_5", "jpeg_exif_6", "jpeg_exif_7", "jpeg_exif_8"}


def decoded(kind: str, width: int = 200, height: int = 120, seed: int = 0) -> npt.NDArray[np.int16]:
    """The whole picture, in the size of its file."""
    data = files.make(kind, width, height, seed)
    if kind in LYING:
        width, height = height, width
    picture = pictures.Picture(height, width, height, "squash")
    return transform.decode(data, picture, MAX_PIXELS).astype(np.int16)


def refusal(data: bytes, max_pixels: int = MAX_PIXELS, picture: pictures.Picture = SQUARE) -> problems.ItemProblem:
    with pytest.raises(problems.ItemProblem) as caught:
        transform.decode(data, picture, max_pixels)
    message = caught.value.message
    assert message.endswith(".") and message.isprintable() and len(message) < 300
    assert "0x" not in message and "object at" not in message
    return caught.value


@pytest.mark.parametrize("kind", files.KINDS)
def test_every_kind_of_file_becomes_a_picture(kind: str) -> None:
    picture = transform.decode(files.make(kind, seed=7), SQUARE, MAX_PIXELS)
    assert picture.shape == (224, 224, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10


@pytest.mark.parametrize(
    "kind", ["png", "png_alpha", "webp_lossless", "bmp", "bmp_alpha", "tiff", "tiff_lzw", "tiff_alpha"]
)
def test_lossless_files_of_any_sort_hold_the_same_pixels(kind: str) -> None:
    assert np.array_equal(decoded(kind, seed=8), files.pixels(200, 120, seed=8))


@pytest.mark.parametrize(
    "kind", ["jpeg", "jpeg_cmyk", "webp", "tiff_jpeg", "tiff_cmyk", "gif", "png_palette", "bmp_palette"]
)
def test_lossy_files_of_any_sort_hold_nearly_the_same_pixels(kind: str) -> None:
    assert np.abs(decoded(kind, seed=8) - files.pixels(200, 120, seed=8)).mean() < 20


@pytest.mark.parametrize("kind", ["gif_animated", "webp_animated"])
def test_only_the_first_frame_counts(kind: str) -> None:
    assert np.abs(decoded(kind, seed=8) - files.pixels(200, 120, seed=8)).mean() < 20


@pytest.mark.parametrize("kind", ["png_16", "tiff_16"])
def test_colours_of_16_bits_keep_their_highest_8(kind: str) -> None:
    assert np.array_equal(decoded(kind, seed=9), files.pixels(200, 120, seed=9))


@pytest.mark.parametrize(
    "kind", ["png_16_gray", "tiff_16_gray", "tiff_16_signed", "tiff_16_white_is_zero", "tiff_32", "tiff_float"]
)
def test_gray_of_more_than_8_bits_is_scaled_down_and_not_clipped(kind: str) -> None:
    green = files.pixels(200, 120, seed=9)[..., 1]
    assert np.array_equal(decoded(kind, seed=9), np.repeat(green[..., None], 3, axis=2))


def test_floats_that_lie_between_0_and_255_are_not_stretched() -> None:
    """White is what the samples can be, as far as that can be known; not the lightest of them."""
    file = io.BytesIO()
    Image.fromarray(np.array([[0.0, 50.0, 100.0, np.nan]], dtype=np.float32)).save(file, "TIFF")
    got = transform.decode(file.getvalue(), pictures.Picture(1, 4, 4, "squash"), MAX_PIXELS)
    assert got[0, :, 0].tolist() == [0, 50, 100, 0]


@pytest.mark.parametrize("orientation", files.ORIENTATIONS)
def test_a_photograph_stands_upright(orientation: int) -> None:
    stored = decoded("jpeg_exif_1", seed=10)
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored.swapaxes(0, 1), 2),
        8: np.rot90(stored, 1),
    }
    assert np.array_equal(decoded(f"jpeg_exif_{orientation}", seed=10), turns[orientation])


def test_metadata_that_cannot_be_read_does_not_spoil_a_picture() -> None:
    whole = files.make("jpeg_exif_6")
    exif = whole.index(b"Exif\0\0")
    torn = whole[: exif + 6] + b"\xff" * 14 + whole[exif + 20 :]
    assert transform.decode(torn, SQUARE, MAX_PIXELS).std() > 10


@pytest.mark.parametrize("kind", files.BROKEN)
def test_every_broken_file_is_refused_with_its_reason(kind: str) -> None:
    assert refusal(files.broken(kind)).reason is files.BROKEN[kind]


@pytest.mark.parametrize("kind", files.FORMATS)
def test_a_file_that_is_cut_anywhere_is_refused(kind: str) -> None:
    whole = files.make(kind, 64, 48)
    # A GIF ends with two bytes that mean nothing when its frame is complete.
    for length in range(0, len(whole) - 2, max(len(whole) // 40, 1)):
        assert refusal(whole[:length]).reason is problems.Reason.UNDECODABLE, length
    if kind != "gif":
        assert refusal(whole[:-1]).reason is problems.Reason.UNDECODABLE


def test_an_image_may_have_as_many_pixels_as_the_limit_and_not_one_more() -> None:
    data = files.make("png", 31, 33)
    transform.decode(data, SQUARE, 31 * 33)
    problem = refusal(data, 31 * 33 - 1)
    assert problem.reason is problems.Reason.TOO_LARGE
    assert problem.message == "The image has more than 1022 pixels."


@pytest.mark.parametrize("size", [(1, 5_000), (5_000, 1), (1, 1)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_no_shape_is_too_thin(size: tuple[int, int], resize: pictures.Resize) -> None:
    picture = pictures.Picture(224, 224, 224, resize)
    assert transform.decode(files.make("png", *size), picture, MAX_PIXELS).shape == (224, 224, 3)


def test_what_is_smaller_than_the_picture_is_padded_around() -> None:
    file = io.BytesIO()
    Image.new("RGB", (100, 50), (10, 20, 30)).save(file, "PNG")
    got = transform.decode(file.getvalue(), pictures.Picture(9, 8, 8, "longest", fill=200), MAX_PIXELS)
    assert (got[:2] == 200).all() and (got[6:] == 200).all()
    assert (got[2:6] == (10, 20, 30)).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_part_of_an_enlarged_image_equals_that_part_of_the_whole(interpolation: pictures.Interpolation) -> None:
    random = np.random.default_rng(11)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    for _ in range(40):
        width, height = (int(edge) for edge in random.integers(1, 40, 2))
        size = int(random.integers(width, 400)), int(random.integers(height, 400))
        left, top = int(random.integers(0, size[0])), int(random.integers(0, size[1]))
        box = left, top, int(random.integers(left + 1, size[0] + 1)), int(random.integers(top + 1, size[1] + 1))
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        whole = image.resize(size, filters[interpolation])
        assert window.enlarged(image, size, box, interpolation) == whole.crop(box), (image.size, size, box)
