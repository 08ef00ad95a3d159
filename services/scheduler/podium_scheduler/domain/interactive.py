"""Which worker session gets an interactive call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Host:
    """A session that could answer calls of a workload."""

    session_id: UUID
    devices: int
    """Those that have the model loaded and take work; 0: it cannot answer."""
    calls: int
    """Interactive calls that it has, of any workload."""


def choose(hosts: Sequence[Host], tried: Collection[UUID], most_calls: int) -> Host | None:
    """The session with the fewest calls a device, of those that were not tried and have fewer than `most_calls`."""
    able = [h for h in hosts if h.devices and h.session_id not in tried and h.calls < most_calls]
    return min(able, key=lambda h: (h.calls / h.devices, h.session_id.int), default=None)


def is_warm(hosts: Sequence[Host]) -> bool:
    """Whether any session has the model loaded, busy or not."""
    return any(host.devices for host in hosts)
