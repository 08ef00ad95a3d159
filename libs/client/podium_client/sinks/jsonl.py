"""Vectors as JSON lines, for tools that read nothing better; about ten times the size of .npy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from podium_client.encodings import Layout, Matrix
from podium_client.results import Provenance
from podium_client.sinks.base import Outcome, replace_durably, temporary_for


class JsonlSink:
    """One object a line: {"index", "key"?, "vector"} or {"index", "key"?, "error": {"reason", "message"}}. A vector is
    a list of numbers: of its elements, or of its bytes when it is binary."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary = temporary_for(self.path)
        self._file: IO[str] | None = None

    def rows(self, first_item: int, item_count: int, layout: Layout) -> Matrix:
        """An array of its own."""
        return layout.zeros(item_count)

    def _open(self) -> IO[str]:
        if self._file is None:
            self._file = self._temporary.open("w", encoding="utf-8")
        return self._file

    def write(self, outcome: Outcome) -> None:
        """Append the lines of a part."""
        file = self._open()
        errors = {error.index: error for error in outcome.errors}
        for place, vector in enumerate(outcome.vectors):
            index = outcome.first_item + place
            row: dict[str, object] = {"index": index}
            if outcome.keys is not None:
                row["key"] = outcome.keys[place]
            if error := errors.get(index):
                row["error"] = {"reason": error.reason, "message": error.message}
            else:
                row["vector"] = vector.tolist()
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")

    def commit(self, layout: Layout, provenance: Provenance | None) -> None:
        """Sync and rename."""
        file = self._open()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._file = None
        replace_durably(self._temporary, self.path)

    def abort(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)
