"""Vectors as one Parquet file, a row group for each part. Needs pyarrow (`pip install
podium-client[parquet]`)."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from podium_client.encodings import Layout, Matrix
from podium_client.errors import ConfigurationError
from podium_client.results import Provenance
from podium_client.sinks.base import Outcome, replace_durably, temporary_for

DTYPE_KEY = "podium.dtype"
DIMENSION_KEY = "podium.dimension"
PROVENANCE_KEY = "podium.provenance"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'podium-client[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _provenance(provenance: Provenance | None) -> dict[str, str]:
    if provenance is None:
        return {}
    return {PROVENANCE_KEY: json.dumps(dataclasses.asdict(provenance), sort_keys=True)}


class ParquetSink:
    """Columns: index int64, key string (null without keys), vector fixed_size_list (null for failed items), error
    string (null, or "REASON: message"). The vector is <float32>[dimension], <float16>[dimension], <int8>[dimension], or
    for binary <uint8>[bytes of a row]. Key-value metadata: "podium.dtype", "podium.dimension", "podium.provenance"
    (JSON)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._arrow, self._parquet = _pyarrow()
        self._temporary = temporary_for(self.path)
        self._writer: Any = None

    def rows(self, first_item: int, item_count: int, layout: Layout) -> Matrix:
        """An array of its own."""
        return layout.zeros(item_count)

    def _open(self, layout: Layout, provenance: Provenance | None) -> Any:
        if self._writer is None:
            arrow = self._arrow
            element = arrow.from_numpy_dtype(layout.numpy)
            told = {DTYPE_KEY: layout.dtype, DIMENSION_KEY: str(layout.dimension)}
            schema = arrow.schema(
                [
                    arrow.field("index", arrow.int64(), nullable=False),
                    arrow.field("key", arrow.string()),
                    arrow.field("vector", arrow.list_(element, layout.width)),
                    arrow.field("error", arrow.string()),
                ],
                metadata=told | _provenance(provenance),
            )
            # Dictionary encoding only costs time on vectors: no two floats are alike.
            self._writer = self._parquet.ParquetWriter(
                str(self._temporary), schema, compression="zstd", use_dictionary=["key", "error"]
            )
        return self._writer

    def write(self, outcome: Outcome) -> None:
        """Append a row group."""
        arrow = self._arrow
        count, width = outcome.vectors.shape
        writer = self._open(outcome.layout, outcome.provenance)
        flat = arrow.array(np.ascontiguousarray(outcome.vectors).reshape(-1))
        mask = arrow.array(~outcome.ok) if outcome.errors else None
        errors: list[str | None] = [None] * count
        for error in outcome.errors:
            errors[error.index - outcome.first_item] = f"{error.reason}: {error.message}"
        columns = [
            arrow.array(np.arange(outcome.first_item, outcome.first_item + count, dtype=np.int64)),
            arrow.nulls(count, arrow.string())
            if outcome.keys is None
            else arrow.array(outcome.keys, type=arrow.string()),
            arrow.FixedSizeListArray.from_arrays(flat, width, mask=mask),
            arrow.array(errors, type=arrow.string()),
        ]
        writer.write_table(arrow.Table.from_arrays(columns, schema=writer.schema), row_group_size=count)

    def commit(self, layout: Layout, provenance: Provenance | None) -> None:
        """Write the footer, sync, rename."""
        writer = self._open(layout, provenance)
        if provenance is not None:
            # Also here: the schema was fixed by the first part, which may have had no vector to tell its origin.
            writer.add_key_value_metadata(_provenance(provenance))
        writer.close()
        self._writer = None
        with self._temporary.open("rb") as written:
            os.fsync(written.fileno())
        replace_durably(self._temporary, self.path)

    def abort(self) -> None:
        """Remove the temporary file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)
