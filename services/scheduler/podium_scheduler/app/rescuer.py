"""The rescuer: ends the sessions whose time is over and gives their batches to others. Runs on the leader only."""

from __future__ import annotations

from podium_scheduler.app import loops, ports, session_lives

_INTERVAL_S = 5.0
"""The lookout wakes it when there is something to do."""
_PAGE = 100


class Rescuer(loops.PatientLoop):
    """Finds lost leases, by the database's clock."""

    name = "rescuer"

    def __init__(self, sessions: ports.SessionLedger, recovery: session_lives.LeaseRecovery) -> None:
        super().__init__()
        self._sessions = sessions
        self._recovery = recovery

    async def round(self) -> float:
        """Ends up to a page of sessions."""
        ended = await self._sessions.end_expired(_PAGE)
        if ended:
            await self._recovery.recover(ended, handed_back=False)
        return 0.0 if len(ended) >= _PAGE else _INTERVAL_S
