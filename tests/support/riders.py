"""Company for a backend in tests: the same items ride along in chosen micro-batches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from podium_worker.app import backend


@dataclass(slots=True)
class Riders:
    """Boards `prepared` before the micro-batches with these numbers, from 0, counting every try."""

    prepared: backend.Prepared
    numbers: Collection[int]
    most: int = 0
    """Of each micro-batch; 0: the budget."""
    rows: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """What has landed of each ride."""
    sizes: list[int] = field(default_factory=list)
    """Of all micro-batches that have landed."""
    own: int = 0
    """The batch's rows that have landed."""
    refused: int = 0
    """Micro-batches that were not begun."""
    _asked: int = 0

    def board(self, width: int, rows: int, budget: int) -> backend.Aboard:
        assert width >= 1 and rows >= 1
        number, self._asked = self._asked, self._asked + 1
        return backend.Aboard(self.most or budget, self.prepared if number in self.numbers else None)

    def left(self) -> None:
        self.refused += 1

    def landed(self, size: int, own: int, rows: npt.NDArray[np.float32]) -> None:
        self.sizes.append(size)
        self.own += own
        if len(rows):
            self.rows.append(rows.copy())
