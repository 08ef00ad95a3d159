"""What a workload looks like in the registry file, and the rules that go beyond single fields."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

import pydantic

Path = tuple[str | int, ...]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_ITEM_BYTES = 32 << 20
"""One item is a batch of its own when it must be, and a batch has to fit into one frame of a stream."""
MIN_CANARY_ELEMENTS = 16
"""Fewer would agree by chance."""

_UNITS = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]*)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(?:\d{1,9}(?:ms|s|m|h))+")


def size(value: object) -> object:
    """Bytes from 65536, "64KiB" or "1.5 MB". Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError("must be a size in bytes, such as 65536, 64KiB or 1MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def span(value: object) -> object:
    """A timedelta of 1 s to 24 h from "5m", "90s" or "1h30m". Raises ValueError."""
    if not isinstance(value, str) or _SPAN.fullmatch(value) is None:
        raise ValueError("must be a time span, such as 30s, 5m or 1h30m")
    parts = re.findall(r"(\d+)(ms|s|m|h)", value)
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    if not 1 <= seconds <= 24 * 3600:
        raise ValueError("must be 1s to 24h")
    return timedelta(seconds=seconds)


def elements(value: object) -> object:
    """Numbers from the base64 of little-endian float32, with white space wherever it helps. Raises ValueError."""
    try:
        packed = base64.b64decode("".join(value.split()), validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        packed = b""
    if not packed or len(packed) % 4:
        raise ValueError("must be the base64 of little-endian float32 numbers, as podium canary prints it")
    numbers = list(struct.unpack(f"<{len(packed) // 4}f", packed))
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        raise ValueError("must be finite numbers, and not all of them 0")
    return numbers


Size = Annotated[int, pydantic.BeforeValidator(size)]
ItemSize = Annotated[Size, pydantic.Field(ge=1, le=MAX_ITEM_BYTES)]
Span = Annotated[timedelta, pydantic.BeforeValidator(span)]
Elements = Annotated[list[float], pydantic.BeforeValidator(elements)]
Line = Annotated[str, pydantic.Field(min_length=1, max_length=200)]


class Section(pydantic.BaseModel):
    """No unknown fields, and no guesses about types: `yes` is no text and "384" no number."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(Section):
    """Bounds on one item, in bytes; pixels for max_image_pixels."""

    max_text_bytes: ItemSize | None = None
    max_image_bytes: ItemSize | None = None
    max_image_pixels: int | None = pydantic.Field(default=None, ge=1, le=1 << 40)


class Batch(Section):
    """How jobs are cut into batches."""

    max_items: int = pydantic.Field(default=256, ge=1, le=4096)
    max_bytes: Size = pydantic.Field(default=1 << 20, ge=1 << 10, le=MAX_ITEM_BYTES)


class Model(Section):
    """What the worker loads, and how."""

    backend: Literal["sentence_transformers", "open_clip", "hash"]
    name: Line
    revision: Line
    local_path: str | None = pydantic.Field(default=None, pattern=r"^/")
    python_package: str | None = pydantic.Field(default=None, pattern=r"^[A-Za-z_]\w*:[\w./-]+$")
    hub_id: str | None = pydantic.Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    pretrained: Line | None = None
    pooling: Literal["mean", "cls", "none"]
    normalized: bool
    max_tokens: int = pydantic.Field(default=0, ge=0, le=1 << 20)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    token_budget: int = pydantic.Field(default=0, ge=0, le=1 << 24)

    @property
    def sources(self) -> list[str]:
        """Names of the source fields that are set."""
        return [f for f in ("local_path", "python_package", "hub_id") if getattr(self, f) is not None]


class Prefixes(Section):
    """Put before each text of an asymmetric model."""

    query: str
    passage: str
    default: Literal["query", "passage"] = "passage"


class Canary(Section):
    """A text whose vector is known, all of it or its beginning. `input_type` chooses the prefix put before it."""

    text: str = pydantic.Field(min_length=1, max_length=2000)
    input_type: Literal["query", "passage"] | None = None
    vector: Elements


class Needs(Section):
    """What a device must have."""

    vram: Size = pydantic.Field(default=0, ge=0, le=1 << 50)
    min_compute_capability: str | None = pydantic.Field(default=None, pattern=r"^\d{1,2}\.\d$")
    load_timeout: Span = timedelta(minutes=5)


class Entry(Section):
    """One workload."""

    description: Line
    modality: Literal["text", "image", "text and image"]
    dimension: int = pydantic.Field(ge=1, le=65536)
    limits: Limits
    batch: Batch = Batch()
    model: Model
    prefixes: Prefixes | None = None
    needs: Needs = Needs()
    canaries: list[Canary] = pydantic.Field(default=[], max_length=16)

    def canary_text(self, canary: Canary) -> str:
        """What the model reads of a canary: the prefix goes before it as before any text."""
        if self.prefixes is None:
            return canary.text
        side = canary.input_type or self.prefixes.default
        return (self.prefixes.query if side == "query" else self.prefixes.passage) + canary.text

    @property
    def takes_text(self) -> bool:
        """Whether texts may be its items."""
        return self.modality != "image"

    @property
    def takes_images(self) -> bool:
        """Whether images may be its items."""
        return self.modality != "text"


class File(Section):
    """The whole registry."""

    workloads: dict[str, Entry] = pydantic.Field(min_length=1)


def problems(file: File) -> Iterator[tuple[Path, str]]:
    """What is wrong with a file whose fields are all right one by one: paths and sentences."""
    for name, entry in file.workloads.items():
        at = ("workloads", name)
        if NAME.fullmatch(name) is None:
            yield at, "a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit"
        for path, sentence in (*_limits(entry), *_sources(entry.model), *_model(entry), *_canaries(entry)):
            yield (*at, *path), sentence


def _limits(entry: Entry) -> Iterator[tuple[Path, str]]:
    needed: list[tuple[str, bool]] = [
        ("max_text_bytes", entry.takes_text),
        ("max_image_bytes", entry.takes_images),
        ("max_image_pixels", entry.takes_images),
    ]
    for field, applies in needed:
        is_set = getattr(entry.limits, field) is not None
        if applies and not is_set:
            yield ("limits", field), f"is required for modality {entry.modality}"
        elif is_set and not applies:
            yield ("limits", field), f"has no meaning for modality {entry.modality}"
    if entry.prefixes is not None and not entry.takes_text:
        yield ("prefixes",), f"has no meaning for modality {entry.modality}"


def _sources(model: Model) -> Iterator[tuple[Path, str]]:
    sources = model.sources
    if len(sources) > 1:
        yield ("model", sources[1]), f"{sources[0]} is given too; a model has one source"
    if model.backend == "hash":
        for field in sources:
            yield ("model", field), "the hash backend loads nothing and takes no source"
    elif not sources and not (model.backend == "open_clip" and model.pretrained):
        yield ("model",), "needs one of local_path, python_package and hub_id"
    if model.pretrained and model.backend != "open_clip":
        yield ("model", "pretrained"), "is for the open_clip backend only"


def _model(entry: Entry) -> Iterator[tuple[Path, str]]:
    model = entry.model
    if entry.takes_images and model.backend != "open_clip":
        yield ("modality",), f"the {model.backend} backend takes texts only"
    if model.backend == "hash" and model.pooling != "none":
        yield ("model", "pooling"), "must be none for the hash backend"
    if model.backend == "hash" and model.normalized:
        yield ("model", "normalized"), "must be false for the hash backend"
    if model.token_budget and model.token_budget < model.max_tokens:
        yield ("model", "token_budget"), f"must be 0 or at least max_tokens ({model.max_tokens})"


def _canaries(entry: Entry) -> Iterator[tuple[Path, str]]:
    if entry.canaries and not entry.takes_text:
        yield ("canaries",), f"has no meaning for modality {entry.modality}"
    least = min(MIN_CANARY_ELEMENTS, entry.dimension)
    for number, canary in enumerate(entry.canaries):
        at = ("canaries", number)
        if not least <= len(canary.vector) <= entry.dimension:
            yield (*at, "vector"), f"holds {len(canary.vector)} numbers, must be {least} to {entry.dimension}"
        if canary.input_type and entry.prefixes is None:
            yield (*at, "input_type"), "has no meaning without prefixes"
