"""When an executor is taken for hung: by its progress, never by its pace.

Whoever has work must move: finish a micro-batch, pass a batch on, finish a load. What counts is watched time in which
nothing moved; a front that was itself asleep has watched nothing. An executor without work may be silent for ever.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Work(enum.Enum):
    """What an executor owes a move for."""

    NONE = "none"
    BOOTING = "booting"
    """It was started and does not listen yet."""
    LOADING = "loading"
    """A model load holds the prepare stage, and nothing is on the device."""
    WAITING = "waiting"
    """It has batches, none of them on the device."""
    COMPUTING = "computing"
    """A batch is on the device. The other stages may well wait for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest time without a move, in seconds, while there is work."""

    work_s: float = 60.0
    load_s: float = 600.0
    """Of a process that starts, and of a model load whose workload names no limit of its own."""


@dataclass(frozen=True, slots=True)
class Stillness:
    """For how long nothing has moved."""

    work: Work = Work.NONE
    seconds: float = 0.0

    def watched(self, work: Work, seconds: float) -> Stillness:
        """`seconds` more were watched without a move; another kind of work begins anew."""
        if work is Work.NONE or work is not self.work:
            return Stillness(work)
        return Stillness(work, self.seconds + seconds)

    def moved(self) -> Stillness:
        """Something moved."""
        return Stillness(self.work)


def work_of(*, booting: bool, computing: bool, loading: bool, waiting: bool) -> Work:
    """The work that is to move next. What computes comes first: it holds up everything behind it."""
    if booting:
        return Work.BOOTING
    if computing:
        return Work.COMPUTING
    if loading:
        return Work.LOADING
    return Work.WAITING if waiting else Work.NONE
