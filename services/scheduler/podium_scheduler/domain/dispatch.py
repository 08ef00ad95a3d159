"""Which worker session takes which batch: credits are levels, not counters.

A session states the largest number of batches it wants in hand, per workload and in all. Free credit is that level
minus what it has in hand, so nothing drifts when frames cross on the wire.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """What one session can take of one workload."""

    session_id: str
    free: int
    """Batches it can still take, the total over all workloads considered."""
    in_hand: int
    """Batches of any workload it has."""


def free_credit(level: int, total_level: int, in_hand_of_workload: int, in_hand: int) -> int:
    """Batches of a workload that a session can still take."""
    return max(0, min(level - in_hand_of_workload, total_level - in_hand))


def divide(room: int, available: Mapping[str, int]) -> dict[str, int]:
    """Shares `room` batches out among workloads, one each in turn, none more than is available of it."""
    share = dict.fromkeys(available, 0)
    open_ones = [w for w, n in available.items() if n > 0]
    while room > 0 and open_ones:
        for workload in open_ones[:room]:
            share[workload] += 1
            room -= 1
        open_ones = [w for w in open_ones if share[w] < available[w]]
    return {w: n for w, n in share.items() if n}


def spread(offers: Sequence[Offer], batches: int) -> list[str]:
    """The session for each of up to `batches` batches: always to the one with the least in hand."""
    free = {o.session_id: o.free for o in offers if o.free > 0}
    queue = [(o.in_hand, o.session_id) for o in offers if o.free > 0]
    heapq.heapify(queue)
    chosen: list[str] = []
    while queue and len(chosen) < batches:
        in_hand, session_id = heapq.heappop(queue)
        chosen.append(session_id)
        free[session_id] -= 1
        if free[session_id]:
            heapq.heappush(queue, (in_hand + 1, session_id))
    return chosen
