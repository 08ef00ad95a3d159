"""What a sink is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from podium_client.encodings import Layout, Matrix
from podium_client.results import BoolVector, ItemError, Provenance, Truncation


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcomes of one part: `vectors` (n, width) as `rows` gave them, with zero rows for failed items, `ok` (n,) bool.

    Indexes of errors and truncations count in the whole input; `keys` is None when the items have none.
    """

    first_item: int
    vectors: Matrix
    ok: BoolVector
    errors: tuple[ItemError, ...]
    truncations: tuple[Truncation, ...]
    keys: tuple[str, ...] | None
    provenance: Provenance | None
    layout: Layout


class Sink(Protocol):
    """Takes the outcomes of consecutive parts in input order. After `commit` they are durable for the
    caller, and only then does the SDK release them at the service. Never called by two threads at once."""

    def rows(self, first_item: int, item_count: int, layout: Layout) -> Matrix:
        """A zeroed (item_count, layout.width) array of type layout.numpy that the SDK fills; asked in any order of
        parts, of the same layout in all of a call. `layout.zeros(item_count)` is one."""

    def write(self, outcome: Outcome) -> None:
        """Take one part; `outcome.vectors` is the array from `rows`."""

    def commit(self, layout: Layout, provenance: Provenance | None) -> None:
        """Make everything durable. Called once, after the last part."""

    def abort(self) -> None:
        """Remove what was written. Called instead of `commit`, or after it failed."""


def temporary_for(path: Path) -> Path:
    """A name beside `path` (same file system, so that the rename is atomic) that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename over `path` and make the rename itself durable."""
    os.replace(temporary, path)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
