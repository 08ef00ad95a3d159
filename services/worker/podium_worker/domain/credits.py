"""How many batches a worker wants in hand.

Enough that its devices never wait for the network: what is computed during the time that a result needs to be
acknowledged and images need to be fetched, plus half a second of reserve, plus the one that is being computed. Credits
are a level, not a counter: the number of batches wanted in hand, from which the scheduler subtracts those that it has
assigned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds from the settings."""

    reserve_s: float = 0.5
    """Seconds of work to have in hand beyond the acknowledgement latency."""
    minimum: int = 2
    maximum: int = 32
    max_bytes: int = 256 * 1024 * 1024
    """Payloads and results in hand together, in bytes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one workload's batches have cost lately on one device; zeros before the first."""

    batch_s: float = 0.0
    """Device seconds of a batch."""
    batch_bytes: float = 0.0
    """Payload plus result of a batch."""
    ack_s: float = 0.0
    """From the result being ready to its Ack."""
    fetch_s: float = 0.0
    """In which its images were fetched and decoded."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is in hand now, over all workloads."""

    batches: int = 0
    bytes: int = 0


def wanted(measured: Measured, devices: int, limits: Limits) -> int:
    """Batches of one workload to have in hand over `devices` devices that can serve it, memory aside."""
    if devices < 1:
        return 0
    per_device = limits.minimum
    if measured.batch_s > 0:
        cover_s = limits.reserve_s + measured.ack_s + measured.fetch_s
        per_device = min(limits.maximum, max(limits.minimum, math.ceil(cover_s / measured.batch_s) + 1))
    return per_device * devices


def bounded(want: int, measured: Measured, load: Load, limits: Limits) -> int:
    """`want`, lowered so that the batches in hand and those still to come stay within the memory bound.

    An empty hand always wants one batch: else one that is larger than the bound would never be served.
    """
    room = limits.max_bytes - load.bytes
    if room <= 0:
        return min(want, max(1, load.batches))
    if measured.batch_bytes <= 0:
        return want
    more = int(room / measured.batch_bytes)
    return min(want, max(1, load.batches + more))


def blend(old: float, new: float, weight: float = 0.25) -> float:
    """Exponentially weighted mean; the first value counts whole."""
    return new if old <= 0 else old + weight * (new - old)
