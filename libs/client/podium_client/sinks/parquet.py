"""Vectors as one Parquet file, a row group for each part. Needs pyarrow (`pip install
podium-client[parquet]`)."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from podium_client.errors import ConfigurationError
from podium_client.results import FloatMatrix, Provenance
from podium_client.sinks.base import Outcome, fresh_rows, replace_durably, temporary_for

PROVENANCE_KEY = "podium.provenance"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'podium-client[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _metadata(provenance: Provenance | None) -> dict[str, str] | None:
    if provenance is None:
        return None
    return {PROVENANCE_KEY: json.dumps(dataclasses.asdict(provenance), sort_keys=True)}


class ParquetSink:
    """Columns: index int64, key string (null without keys), vector fixed_size_list<float32>[dimension]
    (null for failed items), error string (null, or "REASON: message"). Key-value metadata
    "podium.provenance": JSON."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._arrow, self._parquet = _pyarrow()
        self._temporary = temporary_for(self.path)
        self._writer: Any = None

    def rows(self, first_item: int, item_count: int, dimension: int) -> FloatMatrix:
        """An array of its own."""
        return fresh_rows(item_count, dimension)

    def _open(self, dimension: int, provenance: Provenance | None) -> Any:
        if self._writer is None:
            arrow = self._arrow
            schema = arrow.schema(
                [
                    arrow.field("index", arrow.int64(), nullable=False),
                    arrow.field("key", arrow.string()),
                    arrow.field("vector", arrow.list_(arrow.float32(), dimension)),
                    arrow.field("error", arrow.string()),
                ],
                metadata=_metadata(provenance),
            )
            # Dictionary encoding only costs time on vectors: no two floats are alike.
            self._writer = self._parquet.ParquetWriter(
                str(self._temporary), schema, compression="zstd", use_dictionary=["key", "error"]
            )
        return self._writer

    def write(self, outcome: Outcome) -> None:
        """Append a row group."""
        arrow = self._arrow
        count, dimension = outcome.vectors.shape
        writer = self._open(dimension, outcome.provenance)
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
            arrow.FixedSizeListArray.from_arrays(flat, dimension, mask=mask),
            arrow.array(errors, type=arrow.string()),
        ]
        writer.write_table(arrow.Table.from_arrays(columns, schema=writer.schema), row_group_size=count)

    def commit(self, dimension: int, provenance: Provenance | None) -> None:
        """Write the footer, sync, rename."""
        writer = self._open(dimension, provenance)
        if provenance is not None:
            # Also here: the schema was fixed by the first part, which may have had no vector to tell its origin.
            writer.add_key_value_metadata(_metadata(provenance))
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
