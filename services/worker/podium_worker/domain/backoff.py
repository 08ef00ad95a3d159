"""How long to wait before the next attempt of something that failed."""

from __future__ import annotations


def delay_s(failures: int, dice: float, *, base_s: float = 0.2, cap_s: float = 10.0) -> float:
    """Seconds to wait after `failures` failures in a row (from 1). `dice` in [0, 1) makes half of it jitter."""
    ceiling = min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
    return ceiling * (0.5 + 0.5 * dice)
