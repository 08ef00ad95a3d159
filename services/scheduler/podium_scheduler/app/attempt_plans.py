"""What a worker is to compute of a batch whose items may be identical to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podium.worker.v1 import worker_pb2
from podium_scheduler.domain import deduplication


@dataclass(frozen=True, slots=True)
class Plan:
    """How an attempt of a batch comes to its vectors."""

    scope: bytes
    hashes: Sequence[bytes]
    sources: Sequence[int]
    items_deduplicated: int
    """Items that neither this attempt computes nor an earlier one of the same batch has."""
    message: worker_pb2.KnownItems | None = None
    """What the worker is told; None: to compute all."""

    @property
    def to_compute(self) -> list[int]:
        """Items of the batch that the worker computes."""
        return deduplication.computed(self.sources)

    @property
    def leaves_out(self) -> bool:
        """Whether the result will not be whole."""
        return deduplication.LEFT_OUT in self.sources
