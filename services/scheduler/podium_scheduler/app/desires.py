"""Use case: tell workers, on whichever replica their streams are, which models they should keep loaded.

The wish is in the ledger, with the session; its replica finds it there at the next heartbeat. The wake-up only cuts
that short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from podium_scheduler.app import ports, worker_sessions


class Desires:
    """Tells workers here, and the other replicas."""

    def __init__(self, registry: worker_sessions.SessionRegistry, wakeups: ports.Wakeups) -> None:
        self._registry = registry
        self._wakeups = wakeups

    async def spread(self, wanted: Mapping[UUID, Sequence[str]]) -> None:
        """`wanted`: the workloads of each session, the most wanted first, as the ledger has them."""
        elsewhere = {str(key): list(names) for key, names in wanted.items() if not self._tell(key, names)}
        if elsewhere:
            await self._wakeups.replicas("desire", wanted=elsewhere)

    def heard(self, message: Mapping[str, object]) -> None:
        """The leader is elsewhere."""
        wanted = message.get("wanted")
        if isinstance(wanted, dict):
            for key, names in wanted.items():
                self._tell(UUID(key), [str(name) for name in names])

    def _tell(self, session_id: UUID, names: Sequence[str]) -> bool:
        session = self._registry.get(session_id)
        if session is not None and session.want(names):
            session.desire()
        return session is not None
