"""Image files for tests: every format and sort of pixel that is supported, and files that are broken in every way.

`make(kind, width, height, seed)` and `broken(kind, seed)` give the same bytes for the same arguments. The pictures have
broad shapes, fine texture and hard edges, so that a wrong resize, turn or colour shows.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from podium_worker.domain import problems

ORIENTATIONS = range(1, 9)
_ORIENTATION_TAG = 0x0112
_BOMB_EDGE = 30_000


def pixels(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """An RGB picture, shape (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height, 2)
    waves = [
        np.sin(x * random.uniform(2, 20) + y * random.uniform(2, 20) + random.uniform(0, 6)) * 90 + 128
        for _ in range(3)
    ]
    picture = np.stack(waves, axis=-1)
    left, top = int(width * random.uniform(0, 0.6)), int(height * random.uniform(0, 0.6))
    picture[top : top + max(height // 4, 1), left : left + max(width // 3, 1)] = random.integers(0, 256, 3)
    picture += random.normal(0, 12, picture.shape)
    rgb: npt.NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return rgb


def make(kind: str, width: int = 320, height: int = 240, seed: int = 0) -> bytes:
    """A whole file of one of KINDS; width and height are those of the pixels as they are stored."""
    return encode(kind, pixels(width, height, seed))


def encode(kind: str, rgb: npt.NDArray[np.uint8]) -> bytes:
    """A file of one of KINDS of these pixels, shape (height, width, 3)."""
    return _MAKERS[kind](rgb)


def broken(kind: str, seed: int = 0) -> bytes:
    """A file of one of BROKEN, which tells how it must be refused."""
    return _BREAKERS[kind](seed)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _plain(kind: str, mode: str = "RGB", **options: Any) -> Callable[[npt.NDArray[np.uint8]], bytes]:
    return lambda rgb: _saved(Image.fromarray(rgb).convert(mode), kind, **options)


def _with_alpha(rgb: npt.NDArray[np.uint8]) -> Image.Image:
    """The left edge is transparent, the right one opaque."""
    ramp = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)
    alpha = np.broadcast_to(ramp, rgb.shape[:2])[..., None]
    return Image.fromarray(np.concatenate([rgb, alpha], axis=-1))


def _turned(orientation: int, kind: str = "JPEG") -> Callable[[npt.NDArray[np.uint8]], bytes]:
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = orientation
    return lambda rgb: _saved(Image.fromarray(rgb), kind, exif=exif.tobytes())


def _palette(rgb: npt.NDArray[np.uint8]) -> Image.Image:
    # Not the default method, which takes a second for fine textures.
    return Image.fromarray(rgb).quantize(64, Image.Quantize.FASTOCTREE)


def _palette_with_alpha(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _saved(_palette(rgb), "PNG", transparency=bytes(range(0, 256, 4)))


def _animated(rgb: npt.NDArray[np.uint8], kind: str) -> bytes:
    frames = [_palette(frame) if kind == "GIF" else Image.fromarray(frame) for frame in (rgb, 255 - rgb, rgb[::-1])]
    return _saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def _gray16(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """All 16 bits are used; the high byte is the green channel."""
    return rgb[..., 1].astype(np.uint16) * 256 + rgb[..., 0]


def _png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Pillow writes no PNG of 48 bits a pixel, and no bombs. `rows` begin with a filter byte each."""
    header = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(rows, 9)
    chunks = [_png_chunk(b"IHDR", header), *extra, _png_chunk(b"IDAT", data), _png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + name + content + struct.pack("!I", zlib.crc32(name + content))


def _png48(rgb: npt.NDArray[np.uint8]) -> bytes:
    height, width = rgb.shape[:2]
    wide = (rgb.astype(np.uint16) * 256 + rgb[::-1]).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    return _png(width, height, 16, 2, rows)


def _tiff(samples: npt.NDArray[Any], photometric: int, sample_format: int, claimed_edge: int = 0) -> bytes:
    """An uncompressed little-endian TIFF of one strip, whose header may lie about its size."""
    height, width = (claimed_edge, claimed_edge) if claimed_edge else samples.shape[:2]
    count = samples.shape[2] if samples.ndim == 3 else 1
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [samples.dtype.itemsize * 8] * count),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [count]),
        (278, 4, [height]),
        (279, 4, [samples.nbytes]),
        (339, 3, [sample_format] * count),
    ]
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    data += b"\0" * (len(data) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + _tiff_directory(tags, 8 + len(data))


def _tiff_directory(tags: list[tuple[int, int, list[int]]], start: int) -> bytes:
    entries, overflow = b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, overflow = struct.pack("<I", after + len(overflow)), overflow + packed
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + overflow


def _tiff_signed16(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _tiff((_gray16(rgb) >> 1).astype(np.int16), photometric=1, sample_format=2)


def _tiff_white_is_zero(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _tiff(65_535 - _gray16(rgb), photometric=0, sample_format=1)


def _tiff32(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _tiff(_gray16(rgb).astype(np.uint32) << 16, photometric=1, sample_format=1)


def _tiff48(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _tiff(rgb.astype(np.uint16) * 256 + rgb[::-1], photometric=2, sample_format=1)


def _tiff_float(rgb: npt.NDArray[np.uint8]) -> bytes:
    return _tiff(rgb[..., 1].astype(np.float32) / 255, photometric=1, sample_format=3)


_MAKERS: Mapping[str, Callable[[npt.NDArray[np.uint8]], bytes]] = {
    "jpeg": _plain("JPEG", quality=90),
    "jpeg_420": _plain("JPEG", quality=75, subsampling=2),
    "jpeg_progressive": _plain("JPEG", progressive=True),
    "jpeg_gray": _plain("JPEG", "L"),
    "jpeg_cmyk": _plain("JPEG", "CMYK", quality=90),
    **{f"jpeg_exif_{number}": _turned(number) for number in ORIENTATIONS},
    "png": _plain("PNG"),
    "png_1": _plain("PNG", "1"),
    "png_gray": _plain("PNG", "L"),
    "png_gray_alpha": lambda rgb: _saved(_with_alpha(rgb).convert("LA"), "PNG"),
    "png_alpha": lambda rgb: _saved(_with_alpha(rgb), "PNG"),
    "png_palette": lambda rgb: _saved(_palette(rgb), "PNG"),
    "png_palette_alpha": _palette_with_alpha,
    "png_16": _png48,
    "png_16_gray": lambda rgb: _saved(Image.fromarray(_gray16(rgb)), "PNG"),
    "png_exif_6": _turned(6, "PNG"),
    "webp": _plain("WEBP", quality=85),
    "webp_lossless": _plain("WEBP", lossless=True),
    "webp_alpha": lambda rgb: _saved(_with_alpha(rgb), "WEBP", quality=85),
    "webp_animated": lambda rgb: _animated(rgb, "WEBP"),
    "webp_exif_3": _turned(3, "WEBP"),
    "gif": lambda rgb: _saved(_palette(rgb), "GIF"),
    "gif_animated": lambda rgb: _animated(rgb, "GIF"),
    "gif_transparent": lambda rgb: _saved(_palette(rgb), "GIF", transparency=3),
    "bmp": _plain("BMP"),
    "bmp_1": _plain("BMP", "1"),
    "bmp_palette": lambda rgb: _saved(_palette(rgb), "BMP"),
    "bmp_alpha": lambda rgb: _saved(_with_alpha(rgb), "BMP"),
    "tiff": _plain("TIFF"),
    "tiff_lzw": _plain("TIFF", compression="tiff_lzw"),
    "tiff_jpeg": _plain("TIFF", compression="jpeg"),
    "tiff_cmyk": _plain("TIFF", "CMYK"),
    "tiff_alpha": lambda rgb: _saved(_with_alpha(rgb), "TIFF", compression="tiff_adobe_deflate"),
    "tiff_palette": lambda rgb: _saved(_palette(rgb), "TIFF"),
    "tiff_1": _plain("TIFF", "1", compression="group4"),
    "tiff_exif_8": _turned(8, "TIFF"),
    "tiff_16": _tiff48,
    "tiff_16_gray": lambda rgb: _saved(Image.fromarray(_gray16(rgb)), "TIFF"),
    "tiff_16_signed": _tiff_signed16,
    "tiff_16_white_is_zero": _tiff_white_is_zero,
    "tiff_32": _tiff32,
    "tiff_float": _tiff_float,
}
KINDS = tuple(_MAKERS)
FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
"""Kinds of which a cut file can be made."""


def _cut(kind: str, part: float) -> Callable[[int], bytes]:
    def cut(seed: int) -> bytes:
        whole = make(kind, seed=seed)
        return whole[: int(len(whole) * part)]

    return cut


def _noise(seed: int, size: int = 4_000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _scrambled_jpeg(seed: int) -> bytes:
    """Its header is right, then comes noise without an end."""
    whole = make("jpeg", seed=seed)
    return whole[:700] + bytes(_noise(seed).replace(b"\xff", b"\0"))


def _wrong_checksum(seed: int) -> bytes:
    whole = bytearray(make("png", seed=seed))
    whole[whole.index(b"IDAT") + 40] ^= 0x55
    return bytes(whole)


def _bomb_png(edge: int, *extra: bytes) -> bytes:
    """One bit a pixel, all of it there, some hundred kilobytes."""
    row = b"\0" * (1 + (edge + 7) // 8)
    return _png(edge, edge, 1, 0, row * edge, *extra)


def _text_bomb(_: int) -> bytes:
    """A small picture whose comment becomes 20 MB."""
    text = b"Comment\0\0" + zlib.compress(b"\0" * 20_000_000, 9)
    return _png(8, 8, 8, 0, (b"\0" + b"\x80" * 8) * 8, _png_chunk(b"zTXt", text))


def _bomb_gif(_: int) -> bytes:
    """A screen of one pixel, and a frame of 65,535 x 65,535."""
    whole = bytearray(make("gif", 64, 64))
    whole[6:10] = struct.pack("<HH", 1, 1)
    frame = whole.index(b"\x2c\0\0\0\0")
    whole[frame + 5 : frame + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(whole)


def _bomb_webp(_: int) -> bytes:
    """An animation whose canvas is as large as WebP allows, and whose frames are not."""
    whole = bytearray(make("webp_animated", 64, 64))
    whole[24:30] = (16_383).to_bytes(3, "little") * 2
    return bytes(whole)


def _bomb_tiff(_: int) -> bytes:
    return _tiff(np.zeros((8, 8), np.uint8), 1, 1, claimed_edge=60_000)


def _tile_bomb(_: int) -> bytes:
    """A picture of 64 x 64 in one tile of 65,520 x 65,520."""
    tags = [
        (256, 4, [64]), (257, 4, [64]), (258, 3, [8, 8, 8]), (259, 3, [8]), (262, 3, [2]), (277, 3, [3]),
        (322, 4, [65_520]), (323, 4, [65_520]), (324, 4, [8]), (325, 4, [20]),
    ]  # fmt: skip
    data = zlib.compress(b"\0" * 200)[:20].ljust(20, b"\0")
    return struct.pack("<2sHI", b"II", 42, 28) + data + _tiff_directory(tags, 28)


def _bomb_jpeg(_: int) -> bytes:
    whole = bytearray(make("jpeg", 64, 64))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack("!HH", 65_500, 65_500)
    return bytes(whole)


def _bomb_bmp(_: int) -> bytes:
    whole = bytearray(make("bmp", 8, 8))
    whole[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return bytes(whole)


def _eps(_: int) -> bytes:
    """What Pillow would hand to Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


_SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
_HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"

_BREAKERS: Mapping[str, Callable[[int], bytes]] = {
    **{f"cut_{kind}": _cut(kind, 0.6) for kind in FORMATS},
    **{f"cut_header_{kind}": _cut(kind, 0.0005) for kind in FORMATS if kind not in ("bmp", "tiff")},
    "garbage": _noise,
    "jpeg_noise": _scrambled_jpeg,
    "png_checksum": _wrong_checksum,
    "png_zero_size": lambda _: _png(0, 0, 8, 0, b""),
    "gif_zero_size": lambda _: b"GIF89a\0\0\0\0\0\0\0;",
    "empty": lambda _: b"",
    "html": lambda _: _HTML,
    "svg": lambda _: _SVG,
    "eps": _eps,
    "ppm": lambda seed: _saved(Image.fromarray(pixels(32, 32, seed)), "PPM"),
    "png_text_bomb": _text_bomb,
    "bomb_png": lambda _: _bomb_png(_BOMB_EDGE),
    "bomb_gif": _bomb_gif,
    "bomb_webp": _bomb_webp,
    "bomb_tiff": _bomb_tiff,
    "bomb_tiff_tile": _tile_bomb,
    "bomb_jpeg": _bomb_jpeg,
    "bomb_bmp": _bomb_bmp,
}
BROKEN: Mapping[str, problems.Reason] = {
    kind: problems.Reason.TOO_LARGE if kind.startswith("bomb_") else problems.Reason.UNDECODABLE for kind in _BREAKERS
}
