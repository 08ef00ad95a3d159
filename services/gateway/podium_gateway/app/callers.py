"""Who makes a call, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _no_deadline() -> float | None:
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """One call by one app. `remaining_s` tells the seconds to the client's deadline, None when it set
    none."""

    app_id: str
    remaining_s: Callable[[], float | None] = _no_deadline
