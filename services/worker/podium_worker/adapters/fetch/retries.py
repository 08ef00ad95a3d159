"""Whether and when to ask again."""

from __future__ import annotations

import email.utils
from datetime import timedelta

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others in a moment. What is wrong with a request stays wrong: all other 4xx."""


def pause_s(
    failures: int, dice: float, *, base_s: float, cap_s: float, retry_after_s: float | None = None
) -> float | None:
    """Seconds until the next attempt after `failures` failures in a row (from 1), or None for none.

    Full jitter: many fetches that fail together come back spread out. `dice` is in [0, 1). A server that says when it
    wants to be asked again is not asked sooner, and not at all if that is later than `cap_s`.
    """
    jitter = dice * min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
    if retry_after_s is None:
        return jitter
    return None if retry_after_s > cap_s else min(cap_s, retry_after_s + jitter)


def retry_after_s(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None if it is absent or makes no sense.

    It may also be a date (RFC 9110, 10.2.3), which is read against the same answer's Date header: the server's own
    clock, however wrong.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    if date is None:
        return None
    try:
        span = email.utils.parsedate_to_datetime(value) - email.utils.parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(span, timedelta(0)).total_seconds()
