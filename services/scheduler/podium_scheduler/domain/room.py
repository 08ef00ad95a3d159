"""Room for results in Redis: what may be fed, so that every result still fits when it comes.

What counts is what is used and what is in flight: a queued or leased batch needs its place when it is done, and a
worker whose result found none would hold it for ever. Below FEED_SHARE everybody is fed. Above it begins a reserve, for
those who hold little or nothing of the buffer (SMALL_BATCHES), and for the batch that a job's own later results wait
behind: readers go in order, so without it none of them can be read, acknowledged and dropped. Where even the reserve is
used up by results that nobody fetches, the largest holder's latest results are shed, to be computed again when there is
room (see app.shedder).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

FEED_SHARE = 0.80
"""Feeding stops here, but for the reserve."""
RESERVE_SHARE = 0.92
"""The reserve ends here."""
FULL_SHARE = 0.97
"""What is in flight may not fit any more."""
ADMIT_SHARE = 0.90
"""New jobs are refused from here on."""
ASK_SHARE = 0.70
"""Readers that wait are asked to acknowledge what they have: feeding has stopped, or is about to."""
SHED_SHARE = 0.05
"""How much is shed at once, beyond what is needed."""
ROOMY_SHARE = 0.70
"""Where feeding had to stop, pods are rented again for what waits when no more than this is used and in flight: for a
reader that acknowledges bit by bit they would else come and go with every bit."""
LARGE_SHARE = 0.02
"""Until then a job whose unread results take more than this waits for its reader, and no other does."""
SMALL_BATCHES = 4
"""A job with less than this in flight and unread may use the reserve."""

# A row on the wire, then what Redis' allocator and a chunk's keys and errors add to it.
_ALLOCATION = 1.25
_ITEM_OVERHEAD = 128


@dataclass(frozen=True, slots=True)
class Memory:
    """What Redis says of its memory, in bytes; `limit` is 0 when it has none."""

    used: int
    limit: int
    evicts: bool = False
    """Whether it would throw keys away rather than refuse new ones."""

    @property
    def share(self) -> float:
        """Used share of the limit, 0 to 1 and a little more; 0 without a limit."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def crowded(self) -> bool:
        """Whether results that are not read yet can be why others find no room: what is in flight alone is on its way
        to where it is read."""
        return self.share >= FEED_SHARE / 2


def item_bytes(dimension: int) -> int:
    """What the result of one item takes in Redis, rather too much than too little.

    As whole float32 vectors, whatever the job asked for: what is in flight is small beside what is stored, and that is
    measured. A smaller encoding only leaves more room.
    """
    return round(4 * dimension * _ALLOCATION) + _ITEM_OVERHEAD


@dataclass(slots=True)
class Room:
    """What is left, in bytes, while a feeding round goes on."""

    memory: Memory
    in_flight: int
    """What the batches that are queued or leased will take."""

    def batches(self, batch_bytes: int) -> tuple[int | None, bool]:
        """How many batches of this size may be fed (None: any number), and whether only from the reserve."""
        if not self.memory.limit:
            return None, False
        everybody = self._left(FEED_SHARE) // batch_bytes
        if everybody >= 1:
            return everybody, False
        if not self.in_flight and not self.memory.crowded:
            # A batch too large for its share: one at a time is better than none at all.
            return 1, False
        return max(0, self._left(RESERVE_SHARE) // batch_bytes), True

    @property
    def roomy(self) -> bool:
        """Whether feeding can go on for a while."""
        return self._left(ROOMY_SHARE) >= 0

    def take(self, size: int) -> None:
        """Something of this size was fed."""
        self.in_flight += size

    @property
    def overflows(self) -> bool:
        """Whether what is in flight may find no place."""
        return bool(self.memory.limit) and self.in_flight > 0 and self._left(FULL_SHARE) < 0

    @property
    def excess(self) -> int:
        """Bytes to free so that jobs are admitted again; 0 while they are."""
        if not self.memory.limit or self.memory.share < ADMIT_SHARE:
            return 0
        return self.memory.used - int((ADMIT_SHARE - SHED_SHARE) * self.memory.limit)

    def lacks(self, batch_bytes: int) -> int:
        """Bytes to free, so that the reserve has room for a batch again; 0 when it has."""
        if not self.memory.limit or self._left(RESERVE_SHARE) >= batch_bytes:
            return 0
        return batch_bytes - self._left(RESERVE_SHARE) + int(SHED_SHARE * self.memory.limit)

    def _left(self, share: float) -> int:
        return int(share * self.memory.limit) - self.memory.used - self.in_flight


def allowance(held_batches: int, *, gap: bool) -> int:
    """Batches that a job may be given out of the reserve, which has `held_batches` in flight and unread.

    `gap`: its next batch was fed before, so later ones may be finished already and wait for it.
    """
    return max(SMALL_BATCHES - held_batches, int(gap))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a workload's results take in Redis, in bytes: of one item, and of a whole batch at most."""

    item: int
    batch: int


def sizes(dimension: int, max_items: int) -> Sizes:
    """Of a workload with batches of at most `max_items`."""
    return Sizes(item_bytes(dimension), item_bytes(dimension) * max_items)


@dataclass(frozen=True, slots=True)
class Tight:
    """Of a workload whose results lack room: what waits for its reader, and cannot be done by any number of pods.

    It is all but what is in flight, and but for the first few batches of jobs that hold less.
    """

    unread: int
    """Of jobs with more unread items than this; -1: of all."""
    reserve: bool
    """Whether jobs that hold little may be fed."""


def tight(left: Room, of: Mapping[str, Sizes], before: Container[str]) -> dict[str, Tight]:
    """The workloads that lack room. `before`: those that did when last looked at."""
    if not left.memory.crowded:
        return {}
    found = {}
    for workload, size in of.items():
        fit, reserve = left.batches(size.batch)
        if reserve:
            found[workload] = Tight(-1, bool(fit))
        elif workload in before and not left.roomy:
            found[workload] = Tight(int(LARGE_SHARE * left.memory.limit) // size.item, True)
    return found


def total(items: Mapping[str, int], of: Mapping[str, Sizes]) -> int:
    """Bytes that so many items of each workload take."""
    return sum(count * of[workload].item for workload, count in items.items() if workload in of)
