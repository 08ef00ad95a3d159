"""Reading texts or images from JSON lines, CSV or plain lines, lazily and with line numbers for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Protocol

from podium_cli.exits import BadInput

STDIN = "-"


class Format(StrEnum):
    """How the input is written."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    LINES = "lines"


_BY_SUFFIX = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV}


class Source(Protocol):
    """What is to be embedded. `items()` and `keys()` are two views of one pass and go in step: the key of an item is
    there once the item has been read."""

    name: str
    kind: ClassVar[Literal["texts", "images"]]

    def items(self) -> Iterator[Any]:
        """The items, as the SDK takes them, in order. BadInput names the place of what is wrong."""

    def keys(self) -> Iterator[str] | None:
        """The keys of the items read so far, each once; None when there are none."""

    def place_of(self, index: int) -> str | None:
        """Where the `index`th item stands; None when it has not been read."""

    def count(self) -> int | None:
        """How many there are, by a pass of its own; None for what can be read only once."""

    def left_out(self) -> list[str]:
        """What was not sent, in words."""


def check_name(name: str) -> None:
    """BadInput when the command line names nothing."""
    if name != STDIN and not Path(name).exists():
        raise BadInput(f"{name}: there is no such file")


@dataclass
class Input:
    """Texts of one file or of stdin."""

    kind: ClassVar[Literal["texts", "images"]] = "texts"
    what: ClassVar[str] = "text"
    default_fields: ClassVar[tuple[str, ...]] = ("text",)

    name: str
    format: Format = Format.AUTO
    item_field: str | None = None
    key_field: str | None = None
    skip_blank: bool = False
    skipped: int = 0
    _lines: array[int] = field(default_factory=lambda: array("Q"))
    _keys: deque[str] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.format is Format.AUTO:
            self.format = _BY_SUFFIX.get(Path(self.name).suffix.lower(), Format.LINES)
        if self.format is Format.LINES and (self.item_field or self.key_field):
            raise BadInput(f"--{self.what}-field and --key-field need --format jsonl or csv")
        check_name(self.name)
        if self.name != STDIN and Path(self.name).is_dir():
            raise BadInput(f"{self.name}: is a folder")

    def items(self) -> Iterator[Any]:
        """The items, in order. BadInput names the file and line of what is wrong."""
        with self._open() as file:
            for line, value, key in self._rows(file):
                if not value.strip():
                    if self.skip_blank:
                        self.skipped += 1
                        continue
                    raise BadInput(f"{self.name}:{line}: the {self.what} is empty; --skip-blank leaves such rows out")
                item = self._item(value, line)
                self._lines.append(line)
                if self.key_field is not None:
                    self._keys.append(key)
                yield item

    def _item(self, value: str, line: int) -> Any:
        return value

    def keys(self) -> Iterator[str] | None:
        """The keys of the items read so far, each once; None without a key field."""
        return None if self.key_field is None else drain(self._keys)

    def place_of(self, index: int) -> str | None:
        """FILE:LINE of the `index`th item; None when it has not been read."""
        return f"{self.name}:{self._lines[index]}" if index < len(self._lines) else None

    def left_out(self) -> list[str]:
        """What was not sent, in words."""
        return [f"{self.skipped:,} rows without {self.what} were left out"] if self.skipped else []

    def count(self) -> int | None:
        """Rows in the file, by a pass of its own; None for stdin and other things that can be read only
        once."""
        if self.name == STDIN or not Path(self.name).is_file():
            return None
        with self._open() as file:
            if self.format is Format.CSV:
                return max(0, sum(1 for _ in csv.reader(file)) - 1)
            return sum(1 for line in file if line.strip() or not self.skip_blank)

    def _open(self) -> IO[str]:
        newline = "" if self.format is Format.CSV else None
        try:
            if self.name == STDIN:
                # A descriptor of its own: the thread that waits in a read must not hold sys.stdin's lock at exit.
                descriptor = os.dup(sys.stdin.fileno())
                return open(descriptor, encoding="utf-8-sig", newline=newline)
            return open(self.name, encoding="utf-8-sig", newline=newline)
        except (OSError, io.UnsupportedOperation) as error:
            raise BadInput(f"{self.name}: {getattr(error, 'strerror', None) or error}") from error

    def _rows(self, file: IO[str]) -> Iterator[tuple[int, str, str]]:
        rows = {Format.JSONL: self._json_rows, Format.CSV: self._csv_rows}.get(self.format, self._line_rows)
        try:
            yield from rows(file)
        except UnicodeDecodeError as error:
            after = self._lines[-1] if self._lines else 0
            raise BadInput(f"{self.name}: after line {after}: not UTF-8 ({error.reason})") from error

    def _line_rows(self, file: IO[str]) -> Iterator[tuple[int, str, str]]:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip("\n"), ""

    @property
    def _fields(self) -> tuple[str, ...]:
        return (self.item_field,) if self.item_field else self.default_fields

    def _json_rows(self, file: IO[str]) -> Iterator[tuple[int, str, str]]:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                yield number, "", ""
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{self.name}:{number}: not valid JSON: {error}") from error
            if isinstance(row, str) and self.key_field is None:
                yield number, row, ""
            elif isinstance(row, dict):
                yield number, self._value(row, number), self._key(row, number)
            else:
                raise BadInput(f"{self.name}:{number}: an object or a string is needed, not {type(row).__name__}")

    def _value(self, row: dict[str, object], number: int) -> str:
        there = [name for name in self._fields if name in row]
        if not there:
            names = " or ".join(map(repr, self._fields))
            raise BadInput(f"{self.name}:{number}: there is no field {names}; --{self.what}-field names another")
        name = next((name for name in there if row[name] not in (None, "")), there[0])
        value = row[name]
        if not isinstance(value, str):
            raise BadInput(f"{self.name}:{number}: field {name!r} must be a string, not {type(value).__name__}")
        return value

    def _key(self, row: dict[str, object], number: int) -> str:
        if self.key_field is None:
            return ""
        if self.key_field not in row:
            raise BadInput(f"{self.name}:{number}: there is no field {self.key_field!r}")
        value = row[self.key_field]
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadInput(f"{self.name}:{number}: field {self.key_field!r} must be a string or whole number")
        return str(value)

    def _csv_rows(self, file: IO[str]) -> Iterator[tuple[int, str, str]]:
        reader = csv.DictReader(file, strict=True)
        try:
            names = self._csv_columns(list(reader.fieldnames or []))
            for row in reader:
                values = [row[name] for name in names]
                key = row[self.key_field] if self.key_field else ""
                if None in values or key is None:
                    raise BadInput(f"{self.name}:{reader.line_num}: the row has too few columns")
                yield reader.line_num, next(filter(None, values), ""), key
        except csv.Error as error:
            raise BadInput(f"{self.name}:{reader.line_num}: not valid CSV: {error}") from error

    def _csv_columns(self, header: list[str]) -> list[str]:
        names = [name for name in self._fields if name in header]
        if not names and not self.item_field and len(header) == 1:
            names = header
        missing = [] if names else [" or ".join(map(repr, self._fields))]
        if self.key_field is not None and self.key_field not in header:
            missing.append(repr(self.key_field))
        if missing:
            raise BadInput(f"{self.name}: there is no column {missing[0]}; there are: {', '.join(header)}")
        return names


def drain(keys: deque[str]) -> Iterator[str]:
    """What is in the queue now, and later more."""
    while keys:
        yield keys.popleft()
