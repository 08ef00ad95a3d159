"""Micro-batches of jobs while interactive calls come: how large, and which calls ride along in the next one.

A call that waits while a micro-batch is computed waits for all of it. So micro-batches are cut while calls come, as
far as that costs the job little. And a pass of its own costs a short call more than a row among others does, but a row
is as wide as the longest text of its micro-batch: what takes the device less time is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podium_worker.domain import pace

LATELY_S = 5.0
"""Calls come while the last one came so recently."""
_LOSS = 0.1
"""Of the job's rate that cutting may cost, before micro-batches get larger again."""
_STRETCH = 2.0
"""Of the time for a micro-batch, where cutting costs more than that."""
_RIDERS = 0.5
"""Of a micro-batch's rows, for calls."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is set."""

    slice_s: float = 0.075
    """What a micro-batch may take while calls come; 0: it is never cut for them."""


def most(known: pace.Pace, budget: int, since_call_s: float, limits: Limits) -> int:
    """How much the next micro-batch may hold, from 1 to `budget`; `since_call_s`: since a call came last."""
    if not limits.slice_s or not known.known or since_call_s > LATELY_S:
        return budget
    size = known.within(limits.slice_s, budget)
    longest = known.within(_STRETCH * limits.slice_s, budget)
    whole = known.seconds(budget) / budget
    while size < longest and known.seconds(size) / size * (1 - _LOSS) > whole:
        size = min(longest, 2 * size)
    return size


@dataclass(frozen=True, slots=True)
class Next:
    """The micro-batch that is about to begin, before anybody rides along."""

    width: int
    """Of its longest item."""
    rows: int
    """That are left of the batch."""
    most: int
    """That it may hold, padding included."""


def riders(calls: Sequence[Sequence[int]], coming: Next, known: pace.Pace) -> list[int]:
    """Indices, ascending, of the calls that ride along; the others are computed by themselves, all together.

    `calls`: lengths of the items of each that come to the device; a call without any has nothing to ride with. With
    riders, the micro-batch holds no more than it may, and half of its rows at least are the batch's own.
    """
    if not known.known:
        return []
    order = sorted((index for index, call in enumerate(calls) if call), key=lambda index: max(calls[index]))
    alone = sum(len(call) for call in calls)
    longest = max((max(call, default=0) for call in calls), default=0)
    aboard, best, chosen = 0, known.seconds(alone * longest), 0
    for count, index in enumerate(order, 1):
        aboard, alone = aboard + len(calls[index]), alone - len(calls[index])
        ridden = _ridden_s(aboard, max(calls[index]), coming, known)
        if ridden is None:
            break
        cost = ridden + known.seconds(alone * longest)
        if cost <= best:
            best, chosen = cost, count
    return sorted(order[:chosen])


def _ridden_s(rows: int, longest: int, coming: Next, known: pace.Pace) -> float | None:
    """Seconds of the device for so many riders' rows, the longest of them so long; None: they do not fit."""
    width = max(coming.width, longest)
    places = coming.most // width
    if rows > places * _RIDERS:
        return None
    own = min(coming.rows, places - rows)
    more = (own + rows) * width - own * coming.width
    usual = max(1, min(coming.rows, coming.most // coming.width)) * coming.width
    return known.seconds(usual) / usual * more
