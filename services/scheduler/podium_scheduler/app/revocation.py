"""Use case: take batches back from the workers that hold them, on whichever replica these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from podium.worker.v1 import worker_pb2
from podium_scheduler.app import ports, worker_sessions

Why = Literal["cancelled", "deadline"]
_REASONS = {
    "cancelled": worker_pb2.CANCEL_REASON_JOB_CANCELLED,
    "deadline": worker_pb2.CANCEL_REASON_DEADLINE_EXCEEDED,
}


class Revocation:
    """Revokes leases here and tells the other replicas."""

    def __init__(self, registry: worker_sessions.SessionRegistry, wakeups: ports.Wakeups) -> None:
        self._registry = registry
        self._wakeups = wakeups

    async def spread(self, ended: ports.EndedJob, why: Why) -> None:
        """Takes back the leases of an ended job. A lost message is made good by the keeper's audit."""
        elsewhere = [
            [str(lease.session_id), lease.batch_id]
            for lease in ended.revoked
            if not self._revoke(lease.session_id, lease.batch_id, why)
        ]
        if elsewhere:
            await self._wakeups.replicas("revoke", leases=elsewhere, why=why)
        await self._wakeups.job_changed([(ended.job.job_id, "state")])

    def heard(self, message: Mapping[str, object]) -> None:
        """Another replica ended a job."""
        leases, why = message.get("leases"), message.get("why")
        if isinstance(leases, list) and (why == "cancelled" or why == "deadline"):
            for session_id, batch_id in leases:
                self._revoke(UUID(session_id), batch_id, why)

    def _revoke(self, session_id: UUID, batch_id: int, why: Why) -> bool:
        session = self._registry.get(session_id)
        return session is not None and session.revoke(batch_id, _REASONS[why])
