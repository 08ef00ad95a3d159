"""Vectors as one NumPy .npy file.

Written under a temporary name part by part, so memory stays bounded however long the input, and renamed
when complete and on disk. NumPy pads the header so that the first axis can grow: it is written first with 0
rows and again with the real number at the end (numpy.lib.format, GROWTH_AXIS_MAX_DIGITS).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import numpy as np

from podium_client.encodings import Layout, Matrix
from podium_client.results import Provenance
from podium_client.sinks.base import Outcome, replace_durably, temporary_for
from podium_client.sinks.errors_file import ErrorsFile


class NpySink:
    """Writes (n, width) of the layout's type, C order: (n, dimension) float32 unless asked otherwise. Rows of failed
    items are zero and named in PATH.errors.jsonl. Of binary vectors the file knows the bytes and not the dimension:
    numpy.unpackbits(rows, axis=1, count=dimension)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary = temporary_for(self.path)
        self._errors = ErrorsFile(self.path)
        self._file: IO[bytes] | None = None
        self._rows = 0
        self._data_start = 0

    def rows(self, first_item: int, item_count: int, layout: Layout) -> Matrix:
        """An array of its own."""
        return layout.zeros(item_count)

    def _open(self, layout: Layout) -> IO[bytes]:
        if self._file is None:
            self._file = self._temporary.open("wb")
            self._write_header(self._file, layout)
            self._data_start = self._file.tell()
        return self._file

    def _write_header(self, file: IO[bytes], layout: Layout) -> None:
        header = {"descr": layout.numpy.str, "fortran_order": False, "shape": (self._rows, layout.width)}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, outcome: Outcome) -> None:
        """Append the rows of a part."""
        file = self._open(outcome.layout)
        file.write(np.ascontiguousarray(outcome.vectors, dtype=outcome.layout.numpy).data)
        self._rows += len(outcome.vectors)
        self._errors.write(outcome.errors)

    def commit(self, layout: Layout, provenance: Provenance | None) -> None:
        """Correct the header, sync, rename."""
        file = self._open(layout)
        file.seek(0)
        self._write_header(file, layout)
        if file.tell() != self._data_start:
            raise RuntimeError("the .npy header grew beyond its padding")
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._file = None
        self._errors.commit()
        replace_durably(self._temporary, self.path)

    def abort(self) -> None:
        """Remove the temporary files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)
        self._errors.abort()
