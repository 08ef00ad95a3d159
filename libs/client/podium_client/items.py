"""What the items of a job may be, and how a value of the caller's becomes one.

A text is a str; or, for a workload that accepts them, a list, tuple or numpy vector of token ids of the model's own
tokenizer.

An image is an http, https or s3 URL (str), which the worker fetches; or the encoded file itself (bytes); or a local
file (pathlib.Path), read when its turn comes and sent inline. A str is never taken for a local path: a URL with a typo
would be looked for on the disk.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2
from podium_client.errors import InvalidInput, Violation

T = TypeVar("T")
TextLike: TypeAlias = str | Sequence[int] | npt.NDArray[np.integer[Any]]
ImageLike: TypeAlias = str | bytes | bytearray | memoryview | os.PathLike[str]
Items: TypeAlias = item_pb2.TextItems | item_pb2.ImageItems

MAX_INLINE_BYTES = 32 * 1024 * 1024
"""No workload takes a larger image: a batch has to fit into one frame between the services."""

_URL = re.compile(r"(?:https?|s3)://", re.IGNORECASE)
_SHOWN = 100


class Content(NamedTuple):
    """What goes into one item: the field, its value, and the bytes that it counts for."""

    field: str
    value: str | bytes | item_pb2.TokenIds
    size: int


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of items. `name`: the member of SubmitBatchRequest; `read(index, value)`: InvalidInput names the item."""

    name: Literal["texts", "images"]
    empty: Callable[[], Items]
    read: Callable[[int, T], Content]


def bad_item(kind: str, index: int, field: str, description: str) -> InvalidInput:
    """The error for one item, `index` counted in the whole input."""
    path = f"{kind}.items[{index}].{field}"
    return InvalidInput(f"{path}: {description}", [Violation(path, description, index)])


def printable(text: str) -> str:
    """The text on one line, as any stream can write it: file names and URLs may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def read_text(index: int, text: object) -> Content:
    """A text, or the token ids of one."""
    if isinstance(text, list | tuple | np.ndarray):
        return _read_token_ids(index, text)
    if not isinstance(text, str):
        raise bad_item("texts", index, "text", f"a str is needed, not {type(text).__name__}")
    try:
        return Content("text", text, len(text.encode("utf-8")))
    except UnicodeEncodeError as error:
        raise bad_item("texts", index, "text", f"not encodable as UTF-8: {error.reason}") from error


def _read_token_ids(index: int, ids: Iterable[Any]) -> Content:
    try:
        value = item_pb2.TokenIds(ids=ids)
    except (TypeError, ValueError) as error:
        raise bad_item(
            "texts", index, "token_ids", f"token ids are whole numbers from 0 to 2^32 - 1: {error}"
        ) from error
    if not value.ids:
        raise bad_item("texts", index, "token_ids", "is empty")
    return Content("token_ids", value, value.ByteSize())


def read_image(index: int, image: object) -> Content:
    """An image; a file is read here."""
    if isinstance(image, str):
        return _read_url(index, image)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        if not data:
            raise bad_item("images", index, "data", "is empty")
        _check_size(index, "", len(data))
        return Content("data", data, len(data))
    if isinstance(image, os.PathLike):
        data = _read_file(index, image)
        return Content("data", data, len(data))
    needed = "an http, https or s3 URL (str), bytes or a pathlib.Path is needed"
    raise bad_item("images", index, "image", f"{needed}, not {type(image).__name__}")


def _read_url(index: int, url: str) -> Content:
    if _URL.match(url) is None:
        shown = printable(url if len(url) <= _SHOWN else url[:_SHOWN] + "...")
        description = f"'{shown}' is no http, https or s3 URL; give a local file as pathlib.Path"
        raise bad_item("images", index, "url", description)
    try:
        return Content("url", url, len(url.encode("utf-8")))
    except UnicodeEncodeError as error:
        raise bad_item("images", index, "url", f"not encodable as UTF-8: {error.reason}") from error


def _read_file(index: int, path: os.PathLike[str]) -> bytes:
    name = printable(os.fsdecode(path))
    try:
        # Looked at before it is opened: opening a named pipe would wait for its other end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise bad_item("images", index, "data", f"{name}: is no regular file")
        _check_size(index, f"{name}: ", status.st_size)
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise bad_item("images", index, "data", f"{name}: {reason}") from error
    if not data:
        raise bad_item("images", index, "data", f"{name}: is empty")
    _check_size(index, f"{name}: ", len(data))
    return data


def _check_size(index: int, name: str, size: int) -> None:
    if size > MAX_INLINE_BYTES:
        limit = f"no workload takes an inline image of more than {MAX_INLINE_BYTES:,}"
        raise bad_item("images", index, "data", f"{name}is {size:,} bytes; {limit}")


TEXTS: Kind[TextLike] = Kind("texts", item_pb2.TextItems, read_text)
IMAGES: Kind[ImageLike] = Kind("images", item_pb2.ImageItems, read_image)
