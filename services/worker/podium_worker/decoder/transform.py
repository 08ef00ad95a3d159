"""From an image file to the picture that a model looks at, equal to the model's own inference transform.

The order is that in which open_clip and timm train and evaluate: the file becomes RGB (their loaders convert), is
resized by Pillow's resampling to the size that torchvision computes, then cut or padded. On RGB the result equals
`open_clip.image_transform` and `timm.data.create_transform` bit for bit, up to their scaling to [0, 1]. Handed a
palette or an alpha image as it is, open_clip's transform would resize before it converts, by nearest neighbours or with
premultiplied alpha; the same picture would get another vector in another file format. That is not followed.

What the references do not do, and this does: EXIF orientation is honoured; samples of more than 8 bits are scaled down,
not clipped; an edge that would round to 0 becomes 1. Alpha is dropped, as `convert("RGB")` does. Colour profiles are
ignored, as there. Only the first frame counts.

Nothing in a file is trusted: its first bytes choose the one plugin that may open it, and its pixels are counted from
the header. Pillow's own bounds on text and profile chunks stay on.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from podium_worker.decoder import window
from podium_worker.domain import pictures, problems

# Imported for what they register; without them Image.open would import all of Pillow's plugins on first use.
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
# Enlarged whole up to here; beyond, only what is cut out. A line of 1 x 1,000,000 would become 50,000 times that.
_MAX_ENLARGED_PIXELS = 8_000_000
_MESSAGE_LETTERS = 200
_PNG_END = b"IEND\xaeB`\x82"
# How Pillow's codecs say so.
_OUT_OF_MEMORY = ("out of memory error", "error -9")


def decode(data: bytes, picture: pictures.Picture, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The picture in the file: shape (height, width, 3), RGB.

    Raises problems.ItemProblem: UNDECODABLE, or TOO_LARGE for more than `max_pixels` or more than the memory holds.
    """
    kind = sniff(data)
    if kind is None:
        raise problems.ItemProblem(problems.Reason.UNDECODABLE, _unsupported(data))
    try:
        with warnings.catch_warnings(), _pixel_limit(max_pixels):
            # What Pillow only warns about is decided here.
            warnings.simplefilter("ignore")
            image, orientation = _rgb(_opened(data, kind, max_pixels))
        return np.asarray(_fitted(_upright(image, orientation), picture))
    except problems.ItemProblem:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many(max_pixels) from error
    except MemoryError as error:
        raise _too_much_memory() from error
    except Exception as error:
        # Hostile files make Pillow raise anything.
        raise _broken(kind, error) from error


def sniff(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes tell, or None when it is not one of ours."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


@contextlib.contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow looks again wherever a file may contradict its own header."""
    usual = Image.MAX_IMAGE_PIXELS
    # It compares with twice this.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _opened(data: bytes, kind: str, max_pixels: int) -> ImageFile.ImageFile:
    """Read up to the pixels."""
    if kind == "PNG" and _PNG_END not in data:
        # Pillow is content when the pixels are there.
        raise problems.ItemProblem(problems.Reason.UNDECODABLE, "The PNG file is cut short.")
    image = Image.open(io.BytesIO(data), formats=(kind,))
    if image.width * image.height > max_pixels:
        raise _too_many(max_pixels)
    return image


def _rgb(image: ImageFile.ImageFile) -> tuple[Image.Image, Any]:
    """The pixels as RGB, and the EXIF orientation that is still to be applied."""
    image.load()
    # Not earlier: a TIFF is turned while it is loaded, a PNG may tell it after its pixels.
    orientation = _orientation(image)
    if image.mode == "RGB":
        return image, orientation
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB"), orientation
    # It would only be carried along.
    image.info.pop("transparency", None)
    return image.convert("RGB"), orientation


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Metadata that cannot be read does not spoil a picture.
        return 1


def _upright(image: Image.Image, orientation: Any) -> Image.Image:
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Gray samples of more than 8 bits, shape (height, width).

    Whole numbers keep their highest 8 bits, negative ones are black. Floats have no declared range: the smallest of 1,
    255 and 65,535 that holds them all is taken for white, or else their maximum.
    """
    tags: Any = getattr(image, "tag_v2", {})
    samples = np.asarray(image)
    if image.mode == "F":
        gray = _from_floats(samples)
    else:
        bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        signed = int(tags.get(_SAMPLE_FORMAT, (1,))[0]) == _SIGNED
        if signed:
            samples = np.maximum(samples, 0)
        elif bits == 32:
            # Pillow has put them into signed numbers.
            samples = samples.astype(np.uint32)
        gray = np.minimum(samples >> (bits - 8 - signed), 255).astype(np.uint8)
    return 255 - gray if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else gray


def _from_floats(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    finite: npt.NDArray[Any] = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(finite.max())
    white = next((white for white in (1.0, 255.0, 65_535.0) if highest <= white), highest)
    # In place: this is the most memory that any image takes.
    finite *= 255 / white
    gray: npt.NDArray[np.uint8] = np.rint(np.clip(finite, 0.0, 255.0, out=finite), out=finite).astype(np.uint8)
    return gray


def _fitted(image: Image.Image, picture: pictures.Picture) -> Image.Image:
    """Resized, then cut out of the middle, or padded to it."""
    width, height = resized = _resized(image.size, picture)
    left, top = _start(width, picture.width), _start(height, picture.height)
    box = max(left, 0), max(top, 0), min(left + picture.width, width), min(top + picture.height, height)
    if width * height > max(_MAX_ENLARGED_PIXELS, image.width * image.height):
        image = window.enlarged(image, resized, box, picture.interpolation)
    else:
        image = image.resize(resized, _RESAMPLING[picture.interpolation])
        if box != (0, 0, width, height):
            image = image.crop(box)
    if image.size == (picture.width, picture.height):
        return image
    padded = Image.new("RGB", (picture.width, picture.height), (picture.fill,) * 3)
    padded.paste(image, (max(-left, 0), max(-top, 0)))
    return padded


def _resized(size: tuple[int, int], picture: pictures.Picture) -> tuple[int, int]:
    """(width, height) after the resize. torchvision cuts fractions off; `longest` of open_clip and timm rounds them."""
    width, height = size
    if picture.resize == "squash":
        return picture.width, picture.height
    if picture.resize == "longest":
        ratio = max(width, height) / picture.edge
        return max(round(width / ratio), 1), max(round(height / ratio), 1)
    longer = int(picture.edge * max(size) / min(size))
    return (picture.edge, longer) if width <= height else (longer, picture.edge)


def _start(have: int, want: int) -> int:
    """Where the cut begins; negative: the pixels that are padded before."""
    return -((want - have) // 2) if want > have else round((have - want) / 2)


def _too_many(max_pixels: int) -> problems.ItemProblem:
    return problems.ItemProblem(problems.Reason.TOO_LARGE, f"The image has more than {max_pixels} pixels.")


def _too_much_memory() -> problems.ItemProblem:
    return problems.ItemProblem(problems.Reason.TOO_LARGE, "The image takes more memory than a decoder has.")


def _unsupported(data: bytes) -> str:
    if not data:
        return "The file is empty."
    head = data[:256].lstrip().lower()
    what = "looks like HTML or XML" if head.startswith(b"<") else "does not begin like one"
    return f"Not a JPEG, PNG, WebP, GIF, BMP or TIFF: the file {what}."


def _broken(kind: str, error: Exception) -> problems.ItemProblem:
    text = " ".join(str(error).split())
    if text.endswith(_OUT_OF_MEMORY):
        return _too_much_memory()
    if isinstance(error, UnidentifiedImageError) or not text.isprintable():
        # Pillow's words would show the address of a Python object.
        text = "its header cannot be read"
    return problems.ItemProblem(
        problems.Reason.UNDECODABLE, f"The {kind} file is broken or cut short: {text[:_MESSAGE_LETTERS]}."
    )
