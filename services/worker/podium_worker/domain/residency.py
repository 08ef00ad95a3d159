"""Which models a device keeps: as many as fit, and when one more does not, the least valuable of the others go.

Valuable is what the scheduler wants, then what was used lately and is slow to load. A model with a batch in hand never
goes. Pure: the times are spans that the caller has measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IDLE_S = 10.0
"""A model that nobody wants must have been idle for so long before another that nobody asked for may take its place:
two workloads that take turns would else be loaded and unloaded for every batch."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, or one that is being loaded."""

    workload: str
    memory_bytes: int
    load_s: float = 0.0
    """What loading it again would take."""
    idle_s: float = 0.0
    """Since its last batch left."""
    busy: bool = False
    """Whether a batch of it is in hand, or it is being loaded."""
    rank: int | None = None
    """Its place among the workloads that the scheduler wants, 0 the most wanted; None: not among them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that should be loaded."""

    workload: str
    memory_bytes: int
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Device memory for weights, in bytes."""

    shared_bytes: int = 0
    """For all models together, which leaves room for what they compute. 0: there is no bound."""
    alone_bytes: int = 0
    """For one model that is alone: what it leaves is what it has to compute in."""


def evictions(residents: Sequence[Resident], candidate: Candidate, capacity: Capacity) -> tuple[str, ...] | None:
    """The models to unload so that the candidate fits, the least valuable first; empty when it fits as it is.

    None when it cannot be made to fit now.
    """
    if capacity.shared_bytes == 0:
        return ()
    capacity_bytes = capacity.shared_bytes
    if candidate.memory_bytes > capacity_bytes:
        everybody = tuple(resident.workload for resident in residents)
        alone = candidate.memory_bytes <= capacity.alone_bytes
        return everybody if alone and all(_may_go(resident, candidate) for resident in residents) else None
    lacking = candidate.memory_bytes + sum(resident.memory_bytes for resident in residents) - capacity_bytes
    if lacking <= 0:
        return ()
    chosen: list[Resident] = []
    for resident in sorted((r for r in residents if _may_go(r, candidate)), key=_value):
        chosen.append(resident)
        lacking -= resident.memory_bytes
        if lacking <= 0:
            return _only_needed(chosen, -lacking)
    return None


def _may_go(resident: Resident, candidate: Candidate) -> bool:
    if resident.busy:
        return False
    if candidate.rank is None:
        return resident.rank is None and resident.idle_s >= IDLE_S
    return resident.rank is None or resident.rank > candidate.rank


def _value(resident: Resident) -> tuple[bool, int, float, str]:
    """Ascending: what goes first. Among the wanted, the least wanted; else what is idle and quickly loaded again."""
    worth = resident.load_s / (1.0 + resident.idle_s)
    return (resident.rank is not None, -(resident.rank or 0), worth, resident.workload)


def _only_needed(chosen: Sequence[Resident], spare_bytes: int) -> tuple[str, ...]:
    """Without those that a later, larger one has made needless, the most valuable spared first."""
    kept = list(chosen)
    for resident in reversed(chosen):
        if resident.memory_bytes <= spare_bytes:
            spare_bytes -= resident.memory_bytes
            kept.remove(resident)
    return tuple(resident.workload for resident in kept)
