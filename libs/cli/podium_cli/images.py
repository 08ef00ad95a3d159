"""Images from a list of URLs and paths, or from a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from podium_cli.exits import BadInput
from podium_cli.inputs import STDIN, Input, drain
from podium_client.items import printable

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MAX_KEY_BYTES = 256

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TAKEN = ("http://", "https://", "s3://")


@dataclass
class ImageInput(Input):
    """URLs and local paths, one a row, of one file or of stdin. A relative path begins at the folder of the list; of
    stdin, at the current one."""

    kind: ClassVar[Literal["texts", "images"]] = "images"
    what: ClassVar[str] = "image"
    default_fields: ClassVar[tuple[str, ...]] = ("url", "path")

    def _item(self, value: str, line: int) -> Any:
        if _SCHEME.match(value) is None:
            return (Path() if self.name == STDIN else Path(self.name).parent) / value
        if not value.lower().startswith(_TAKEN):
            raise BadInput(f"{self.name}:{line}: {printable(value)} is no http, https or s3 URL")
        return value


@dataclass
class Folder:
    """Image files of a folder and those below it, by suffix: its own in the order of their names, then those of each
    folder in it. Hidden files and links to folders are left out. An item's key is its path in the folder."""

    kind: ClassVar[Literal["texts", "images"]] = "images"

    name: str
    skip_blank: bool = False
    empty: int = 0
    others: int = 0
    _read: int = 0
    _keys: deque[str] = field(default_factory=deque)

    def items(self) -> Iterator[Any]:
        """The files, in order. BadInput when a folder cannot be read."""
        self._read = self.empty = self.others = 0
        for path in self._files():
            if self._is_left_out(path):
                self.empty += 1
                continue
            self._read += 1
            self._keys.append(key_of(os.path.relpath(path, self.name)))
            yield Path(path)
        if not self._read:
            raise BadInput(f"{self.name}: holds no image files ({', '.join(sorted(SUFFIXES))})")

    def _is_left_out(self, path: str) -> bool:
        try:
            return self.skip_blank and os.path.getsize(path) == 0
        except OSError:
            return False  # it is refused with its reason when it is read

    def _files(self) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            raise BadInput(f"{printable(str(error.filename))}: {error.strerror}")

        for folder, below, names in os.walk(self.name, onerror=refuse):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                    yield os.path.join(folder, name)
                else:
                    self.others += 1

    def keys(self) -> Iterator[str] | None:
        """Paths in the folder, of the files read so far."""
        return drain(self._keys)

    def place_of(self, index: int) -> str | None:
        """The `index`th file, by another pass: a million names need not be kept for it. None when it has not been
        read."""
        if index >= self._read:
            return None
        sent = (path for path in self._files() if not self._is_left_out(path))
        path = next(islice(sent, index, None), None)
        return printable(path) if path is not None else None

    def left_out(self) -> list[str]:
        """What was not sent, in words."""
        said = ((self.empty, "empty files"), (self.others, "files that are no images by their names"))
        return [f"{count:,} {what} were left out" for count, what in said if count]

    def count(self) -> int | None:
        """Image files, by a pass of its own."""
        return sum(1 for path in self._files() if not self._is_left_out(path))


def key_of(relative: str) -> str:
    """The path as a key: UTF-8 whatever the file system holds, and no longer than a key may be, so that one too long
    keeps its end after a digest of the whole."""
    raw = os.fsencode(relative.replace(os.sep, "/"))
    key = raw.decode("utf-8", "backslashreplace")
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(raw).hexdigest()[:16]
    end = key.encode()[-(MAX_KEY_BYTES - len(digest) - 5) :].decode("utf-8", "ignore")
    return f"{digest}/.../{end}"
