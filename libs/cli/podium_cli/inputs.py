"""Reading texts from JSON lines, CSV or plain lines, lazily and with line numbers for what is wrong."""

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
from typing import IO

from podium_cli.exits import BadInput

STDIN = "-"
DEFAULT_FIELD = "text"


class Format(StrEnum):
    """How the input is written."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"
    LINES = "lines"


_BY_SUFFIX = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV}


@dataclass
class Input:
    """Texts of one file or of stdin. `texts()` and `keys()` are two views of one pass and go in step: the
    key of an item is there once its text has been read."""

    name: str
    format: Format = Format.AUTO
    text_field: str | None = None
    key_field: str | None = None
    skip_blank: bool = False
    skipped: int = 0
    _lines: array[int] = field(default_factory=lambda: array("Q"))
    _keys: deque[str] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.format is Format.AUTO:
            self.format = _BY_SUFFIX.get(Path(self.name).suffix.lower(), Format.LINES)
        if self.format is Format.LINES and (self.text_field or self.key_field):
            raise BadInput("--text-field and --key-field need --format jsonl or csv")
        if self.name != STDIN and not Path(self.name).exists():
            raise BadInput(f"{self.name}: there is no such file")
        if self.name != STDIN and Path(self.name).is_dir():
            raise BadInput(f"{self.name}: is a folder")

    def texts(self) -> Iterator[str]:
        """The texts, in order. BadInput names the file and line of what is wrong."""
        with self._open() as file:
            for line, text, key in self._rows(file):
                if not text.strip():
                    if self.skip_blank:
                        self.skipped += 1
                        continue
                    raise BadInput(f"{self.name}:{line}: the text is empty; --skip-blank leaves such rows out")
                self._lines.append(line)
                if self.key_field is not None:
                    self._keys.append(key)
                yield text

    def keys(self) -> Iterator[str] | None:
        """The keys of the texts read so far, each once; None without a key field."""
        return None if self.key_field is None else self._drain_keys()

    def _drain_keys(self) -> Iterator[str]:
        while self._keys:
            yield self._keys.popleft()

    def line_of(self, index: int) -> int | None:
        """The line of the `index`th text; None when it has not been read."""
        return self._lines[index] if index < len(self._lines) else None

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

    def _json_rows(self, file: IO[str]) -> Iterator[tuple[int, str, str]]:
        name = self.text_field or DEFAULT_FIELD
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
                yield number, self._value(row, name, number), self._key(row, number)
            else:
                raise BadInput(f"{self.name}:{number}: an object or a string is needed, not {type(row).__name__}")

    def _value(self, row: dict[str, object], name: str, number: int) -> str:
        if name not in row:
            raise BadInput(f"{self.name}:{number}: there is no field {name!r}; --text-field names another")
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
            header = list(reader.fieldnames or [])
            name = self.text_field or (header[0] if len(header) == 1 else DEFAULT_FIELD)
            for wanted in (name, self.key_field):
                if wanted is not None and wanted not in header:
                    raise BadInput(f"{self.name}: there is no column {wanted!r}; there are: {', '.join(header)}")
            for row in reader:
                text, key = row[name], row[self.key_field] if self.key_field else ""
                if text is None or key is None:
                    raise BadInput(f"{self.name}:{reader.line_num}: the row has too few columns")
                yield reader.line_num, text, key
        except csv.Error as error:
            raise BadInput(f"{self.name}:{reader.line_num}: not valid CSV: {error}") from error
