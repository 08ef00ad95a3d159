"""Choosing a sink by the name of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from podium_client.errors import ConfigurationError
from podium_client.sinks.base import Sink
from podium_client.sinks.jsonl import JsonlSink
from podium_client.sinks.npy import NpySink
from podium_client.sinks.parquet import ParquetSink

_BY_SUFFIX: dict[str, Callable[[Path], Sink]] = {
    ".npy": NpySink,
    ".parquet": ParquetSink,
    ".jsonl": JsonlSink,
    ".ndjson": JsonlSink,
}


def open_sink(path: str | os.PathLike[str]) -> Sink:
    """A sink for PATH.npy, .parquet or .jsonl. ConfigurationError for another suffix or a missing folder."""
    target = Path(path)
    kind = _BY_SUFFIX.get(target.suffix.lower())
    if kind is None:
        raise ConfigurationError(f"{target}: the name must end in {', '.join(_BY_SUFFIX)}")
    if not target.parent.is_dir():
        raise ConfigurationError(f"{target}: there is no folder {target.parent}")
    return kind(target)
