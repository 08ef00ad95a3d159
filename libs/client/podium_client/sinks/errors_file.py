"""The side file that names failed items: one JSON object a line with index, key, reason and message."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from podium_client.results import ItemError
from podium_client.sinks.base import replace_durably, temporary_for


class ErrorsFile:
    """Written beside `path` as NAME.errors.jsonl; there is none after a commit without errors."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".errors.jsonl")
        self._temporary = temporary_for(self.path)
        self._file: IO[str] | None = None

    def write(self, errors: Iterable[ItemError]) -> None:
        """Add errors."""
        for error in errors:
            if self._file is None:
                self._file = self._temporary.open("w", encoding="utf-8")
            row = {"index": error.index, "key": error.key, "reason": error.reason, "message": error.message}
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def commit(self) -> None:
        """Make it durable; without errors, remove the one of an earlier run."""
        if self._file is None:
            self.path.unlink(missing_ok=True)
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        replace_durably(self._temporary, self.path)

    def abort(self) -> None:
        """Remove what was written."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)
