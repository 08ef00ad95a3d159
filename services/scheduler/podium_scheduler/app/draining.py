"""Use case: an operator lets a worker finish and leave, on whichever replica its stream is.

The wish is in the ledger, over all sessions of the worker; its replica finds it there at the next heartbeat. The
wake-up only cuts that short.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from podium_scheduler.app import ports, worker_sessions


class Draining:
    """Drains workers here and tells the other replicas."""

    def __init__(
        self, registry: worker_sessions.SessionRegistry, ledger: ports.SessionLedger, wakeups: ports.Wakeups
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._wakeups = wakeups

    async def drain(self, worker_id: UUID) -> bool:
        """Returns once the wish is durable; False when the worker has no session."""
        session_id = await self._ledger.drain(worker_id)
        if session_id is None:
            return False
        if not self._drain(session_id):
            await self._wakeups.replicas("drain", session=str(session_id))
        return True

    def heard(self, message: Mapping[str, object]) -> None:
        """Another replica was asked."""
        self._drain(UUID(str(message.get("session"))))

    def _drain(self, session_id: UUID) -> bool:
        session = self._registry.get(session_id)
        if session is not None:
            session.drain()
        return session is not None
