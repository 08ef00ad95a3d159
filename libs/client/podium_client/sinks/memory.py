"""Vectors as one array in memory."""

from __future__ import annotations

import numpy as np

from podium_client.encodings import Layout, Matrix
from podium_client.results import BoolVector, Embeddings, ItemError, Provenance, Truncation
from podium_client.sinks.base import Outcome


class MemorySink:
    """Collects into one array of rows: allocated once when `total` is known, else joined at
    the end (which needs twice the memory for a moment)."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._whole: Matrix | None = None
        self._pieces: list[Matrix] = []
        self._ok: list[BoolVector] = []
        self._errors: list[ItemError] = []
        self._truncations: list[Truncation] = []
        self._keys: list[str] | None = None
        self._provenance: Provenance | None = None
        self._layout: Layout | None = None

    def rows(self, first_item: int, item_count: int, layout: Layout) -> Matrix:
        """A part of the whole array, or an array of its own."""
        if self._total is None:
            return layout.zeros(item_count)
        if self._whole is None:
            self._whole = layout.zeros(self._total)
        return self._whole[first_item : first_item + item_count]

    def write(self, outcome: Outcome) -> None:
        """Keep a part."""
        if self._total is None:
            self._pieces.append(outcome.vectors)
        self._ok.append(outcome.ok)
        self._errors += outcome.errors
        self._truncations += outcome.truncations
        if outcome.keys is not None:
            self._keys = self._keys or []
            self._keys += outcome.keys

    def commit(self, layout: Layout, provenance: Provenance | None) -> None:
        """Join the parts."""
        self._provenance, self._layout = provenance, layout
        if self._whole is None:
            pieces = self._pieces or [layout.zeros(0)]
            self._whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            self._pieces = []

    def abort(self) -> None:
        """Forget everything."""
        self._whole, self._pieces = None, []

    def embeddings(self, jobs: tuple[str, ...]) -> Embeddings:
        """The result; after `commit` only."""
        if self._whole is None:
            raise RuntimeError("embeddings() before commit()")
        return Embeddings(
            vectors=self._whole,
            ok=np.concatenate(self._ok) if self._ok else np.zeros(0, dtype=np.bool_),
            errors=tuple(self._errors),
            truncations=tuple(self._truncations),
            keys=None if self._keys is None else tuple(self._keys),
            provenance=self._provenance,
            jobs=jobs,
            layout=self._layout,
        )
