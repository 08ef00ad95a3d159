"""What a workload looks like in the registry file, and the rules that go beyond single fields."""

from __future__ import annotations

import base64
import binascii
import itertools
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
MAX_IMAGE_BYTES = 256 << 20
"""An image by URL need not fit into a frame. One that is sent inline must; the gateway sees to that."""
MIN_CANARY_ELEMENTS = 16
"""Fewer would agree by chance."""
MAX_CANARY_IMAGE_BYTES = 64 << 10
"""Every worker gets the whole registry at its Hello."""

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


def image_file(value: object) -> object:
    """Bytes from base64, with white space wherever it helps. Raises ValueError."""
    try:
        data = base64.b64decode("".join(value.split()), validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        data = b""
    if not data:
        raise ValueError("must be the base64 of an image file, as podium canary prints it")
    if len(data) > MAX_CANARY_IMAGE_BYTES:
        raise ValueError(f"is {len(data):,} bytes, must be at most {MAX_CANARY_IMAGE_BYTES:,}: a small picture will do")
    return data


Size = Annotated[int, pydantic.BeforeValidator(size)]
ItemSize = Annotated[Size, pydantic.Field(ge=1, le=MAX_ITEM_BYTES)]
Span = Annotated[timedelta, pydantic.BeforeValidator(span)]
Elements = Annotated[list[float], pydantic.BeforeValidator(elements)]
ImageFile = Annotated[bytes, pydantic.BeforeValidator(image_file)]
Encoding = Literal["float16", "int8", "binary"]
Line = Annotated[str, pydantic.Field(min_length=1, max_length=200)]


class Section(pydantic.BaseModel):
    """No unknown fields, and no guesses about types: `yes` is no text and "384" no number."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(Section):
    """Bounds on one item, in bytes; pixels for max_image_pixels."""

    max_text_bytes: ItemSize | None = None
    max_image_bytes: Annotated[Size, pydantic.Field(ge=1, le=MAX_IMAGE_BYTES)] | None = None
    max_image_pixels: int | None = pydantic.Field(default=None, ge=1, le=1 << 40)


class Batch(Section):
    """How jobs are cut into batches."""

    max_items: int = pydantic.Field(default=256, ge=1, le=4096)
    max_bytes: Size = pydantic.Field(default=1 << 20, ge=1 << 10, le=MAX_ITEM_BYTES)


class Model(Section):
    """What the worker loads, and how."""

    backend: Literal["sentence_transformers", "open_clip", "timm", "hash"]
    name: Line
    revision: Line
    local_path: str | None = pydantic.Field(default=None, pattern=r"^/")
    python_package: str | None = pydantic.Field(default=None, pattern=r"^[A-Za-z_]\w*:[\w./-]+$")
    hub_id: str | None = pydantic.Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    architecture: str | None = pydantic.Field(default=None, pattern=r"^[\w.-]{1,200}$")
    pretrained: Line | None = None
    pooling: Literal["mean", "cls", "none"]
    normalized: bool
    max_tokens: int = pydantic.Field(default=0, ge=0, le=1 << 20)
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    token_budget: int = pydantic.Field(default=0, ge=0, le=1 << 24)
    image_budget: int = pydantic.Field(default=0, ge=0, le=1 << 16)

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
    """A text or an image whose vector is known, all of it or its beginning.

    `input_type` chooses the prefix put before the text; `image` is a whole image file.
    """

    text: str | None = pydantic.Field(default=None, min_length=1, max_length=2000)
    image: ImageFile | None = None
    input_type: Literal["query", "passage"] | None = None
    vector: Elements


class Needs(Section):
    """What a device must have."""

    vram: Size = pydantic.Field(default=0, ge=0, le=1 << 50)
    min_compute_capability: str | None = pydantic.Field(default=None, pattern=r"^\d{1,2}\.\d$")
    min_cuda_version: str | None = pydantic.Field(default=None, pattern=r"^\d{1,2}\.\d{1,2}$")
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
    encodings: list[Encoding] | None = None
    dimensions: list[int] = []
    accepts_token_ids: bool = False
    needs: Needs = Needs()
    canaries: list[Canary] = pydantic.Field(default=[], max_length=16)

    @property
    def offered_encodings(self) -> list[Encoding]:
        """Element types beside float32 that a job may ask for; unset: all that make sense.

        One byte or one bit keeps a vector's direction but not its length, so they are for normalised models.
        """
        if self.encodings is not None:
            return self.encodings
        return ["float16", "int8", "binary"] if self.model.normalized else ["float16"]

    def canary_text(self, canary: Canary) -> str:
        """What the model reads of a text canary: the prefix goes before it as before any text."""
        text = canary.text or ""
        if self.prefixes is None:
            return text
        side = canary.input_type or self.prefixes.default
        return (self.prefixes.query if side == "query" else self.prefixes.passage) + text

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
        rules = (_limits, _sources, _model, _budgets, _results, _canaries)
        for path, sentence in itertools.chain.from_iterable(rule(entry) for rule in rules):
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


def _sources(entry: Entry) -> Iterator[tuple[Path, str]]:
    model, sources = entry.model, entry.model.sources
    if len(sources) > 1:
        yield ("model", sources[1]), f"{sources[0]} is given too; a model has one source"
    if model.backend == "hash":
        for field in sources:
            yield ("model", field), "the hash backend loads nothing and takes no source"
    elif model.backend == "open_clip" and not sources:
        # By a tag of open_clip's own table.
        if not (model.architecture and model.pretrained):
            yield ("model",), "needs one of local_path, python_package and hub_id, or both architecture and pretrained"
    elif model.backend == "timm" and not sources:
        if not model.architecture:
            yield ("model",), "needs one of local_path, python_package and hub_id, or architecture"
    elif not sources:
        yield ("model",), "needs one of local_path, python_package and hub_id"
    if model.pretrained and model.backend != "open_clip":
        yield ("model", "pretrained"), "is for the open_clip backend only"
    elif model.pretrained and model.hub_id:
        yield ("model", "pretrained"), "hub_id is given too; a repository has one checkpoint"
    if model.architecture and model.backend not in ("open_clip", "timm"):
        yield ("model", "architecture"), "is for the open_clip and timm backends only"


def _model(entry: Entry) -> Iterator[tuple[Path, str]]:
    model = entry.model
    if model.backend == "sentence_transformers" and entry.takes_images:
        yield ("modality",), "the sentence_transformers backend takes texts only"
    if model.backend == "timm" and entry.takes_text:
        yield ("modality",), "the timm backend takes images only"
    if model.backend != "sentence_transformers" and model.pooling != "none":
        yield ("model", "pooling"), f"must be none for the {model.backend} backend"
    if model.backend == "hash" and model.normalized:
        yield ("model", "normalized"), "must be false for the hash backend"
    if entry.accepts_token_ids and model.backend != "sentence_transformers":
        yield ("accepts_token_ids",), "is for the sentence_transformers backend only"
    elif entry.accepts_token_ids and entry.prefixes is not None:
        yield ("accepts_token_ids",), "has no meaning with prefixes, whose end may be one token with a text's beginning"


def _budgets(entry: Entry) -> Iterator[tuple[Path, str]]:
    model = entry.model
    if model.token_budget and model.token_budget < model.max_tokens:
        yield ("model", "token_budget"), f"must be 0 or at least max_tokens ({model.max_tokens})"
    for field, applies in (
        ("max_tokens", entry.takes_text),
        ("token_budget", entry.takes_text),
        ("image_budget", entry.takes_images),
    ):
        if getattr(model, field) and not applies:
            yield ("model", field), f"has no meaning for modality {entry.modality}"


def _results(entry: Entry) -> Iterator[tuple[Path, str]]:
    for number, encoding in enumerate(entry.encodings or ()):
        if encoding in (entry.encodings or ())[:number]:
            yield ("encodings", number), f"{encoding} is given twice"
        elif encoding != "float16" and not entry.model.normalized:
            yield ("encodings", number), f"{encoding} keeps no lengths, so model.normalized must be true"
    for number, length in enumerate(entry.dimensions):
        if not 1 <= length < entry.dimension:
            yield ("dimensions", number), f"must be 1 to {entry.dimension - 1}: below dimension"
        elif number and length <= entry.dimensions[number - 1]:
            yield ("dimensions", number), f"must be above {entry.dimensions[number - 1]}, the one before it"


def _canaries(entry: Entry) -> Iterator[tuple[Path, str]]:
    least = min(MIN_CANARY_ELEMENTS, entry.dimension)
    for number, canary in enumerate(entry.canaries):
        at = ("canaries", number)
        if (canary.text is None) == (canary.image is None):
            yield at, "must have one of text and image"
        elif canary.text is not None and not entry.takes_text:
            yield (*at, "text"), f"has no meaning for modality {entry.modality}"
        elif canary.image is not None and not entry.takes_images:
            yield (*at, "image"), f"has no meaning for modality {entry.modality}"
        if not least <= len(canary.vector) <= entry.dimension:
            yield (*at, "vector"), f"holds {len(canary.vector)} numbers, must be {least} to {entry.dimension}"
        if canary.input_type and canary.image is not None:
            yield (*at, "input_type"), "has no meaning for an image"
        elif canary.input_type and entry.prefixes is None:
            yield (*at, "input_type"), "has no meaning without prefixes"
