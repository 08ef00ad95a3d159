"""Which worker session gets an interactive call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Host:
    """A session that could answer calls of a workload."""

    session_id: UUID
    devices: int
    """Those that have the model loaded and take work; 0: it cannot answer."""
    calls: int
    """Interactive calls that it has, of any workload."""


@dataclass(slots=True)
class Residents:
    """Which sessions have which models loaded, by their last word. To ask costs as much as there are such sessions,
    whatever else is connected; to be told costs something when the models of a session change, which is seldom."""

    _of_session: dict[UUID, frozenset[str]] = field(default_factory=dict)
    _having: dict[str, set[UUID]] = field(default_factory=dict)

    def put(self, session_id: UUID, workloads: frozenset[str]) -> None:
        """All that a session has; nothing when it has gone."""
        before = self._of_session.pop(session_id, frozenset())
        for workload in before - workloads:
            self._having[workload].discard(session_id)
            if not self._having[workload]:
                del self._having[workload]
        for workload in workloads - before:
            self._having.setdefault(workload, set()).add(session_id)
        if workloads:
            self._of_session[session_id] = workloads

    def having(self, workload: str) -> Collection[UUID]:
        """Sessions with a device that has the model."""
        return self._having.get(workload, frozenset())


def choose(hosts: Sequence[Host], tried: Collection[UUID], most_calls: int) -> Host | None:
    """The session with the fewest calls a device, of those that were not tried and have fewer than `most_calls`."""
    able = [h for h in hosts if h.devices and h.session_id not in tried and h.calls < most_calls]
    return min(able, key=lambda h: (h.calls / h.devices, h.session_id.int), default=None)


def is_warm(hosts: Sequence[Host]) -> bool:
    """Whether any session has the model loaded, busy or not."""
    return any(host.devices for host in hosts)
