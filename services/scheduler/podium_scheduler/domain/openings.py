"""What many sessions can still take, kept up one session at a time.

Who changed is put again and nobody else is looked at, so that a claim costs the same with ten sessions as with a
thousand: it asks for the sums, and for as many of the least loaded sessions as it has batches.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Opening:
    """What one session can still take."""

    free: Mapping[str, int]
    """Batches of each workload that it offers credit for, 0 where that is used up."""
    room: int
    """Batches of any workload."""
    load: int
    """Batches of any workload that it has."""


class Openings:
    """Sums over sessions, and the sessions in the order of their load."""

    def __init__(self) -> None:
        self.room = 0
        """Batches of any workload that all of them together can still take."""
        self._known: dict[UUID, Opening] = {}
        self._free: Counter[str] = Counter()
        self._offering: Counter[str] = Counter()
        """Sessions that offer credit for each workload, used up or not."""
        # By workload and load; of equal load, whoever has waited longest comes first.
        self._ranks: defaultdict[str, defaultdict[int, dict[UUID, None]]] = defaultdict(lambda: defaultdict(dict))

    def put(self, session_id: UUID, opening: Opening) -> None:
        """A session can take this now, whatever it could before."""
        if self._known.get(session_id) == opening:
            return
        self.drop(session_id)
        self._known[session_id] = opening
        self.room += opening.room
        for workload, free in opening.free.items():
            self._free[workload] += free
            self._offering[workload] += 1
            if free:
                self._ranks[workload][opening.load][session_id] = None

    def drop(self, session_id: UUID) -> None:
        """A session takes nothing any more."""
        opening = self._known.pop(session_id, None)
        if opening is None:
            return
        self.room -= opening.room
        for workload, free in opening.free.items():
            self._free[workload] -= free
            self._offering[workload] -= 1
            if free:
                self._unrank(workload, opening.load, session_id)
            if not self._offering[workload]:
                del self._offering[workload], self._free[workload]

    def _unrank(self, workload: str, load: int, session_id: UUID) -> None:
        rank = self._ranks[workload][load]
        del rank[session_id]
        if not rank:
            del self._ranks[workload][load]

    def by_workload(self) -> dict[str, int]:
        """Batches of each workload that somebody offers credit for which all of them together can still take."""
        return dict(self._free)

    def least_loaded(self, workload: str, limit: int) -> Iterator[UUID]:
        """Up to `limit` sessions that can take a batch of a workload, the least loaded first."""
        ranks: Mapping[int, Mapping[UUID, None]] = self._ranks.get(workload, {})
        return islice(chain.from_iterable(ranks[load] for load in sorted(ranks)), limit)
