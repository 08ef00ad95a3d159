"""The keeper: extends the sessions that were heard of, in one statement a round, and drops those that were fenced."""

from __future__ import annotations

from podium.worker.v1 import worker_pb2
from podium_scheduler.app import loops, ports, records, worker_sessions


class SessionKeeper(loops.PatientLoop):
    """Renews this replica's sessions and checks that what they have in hand is still theirs."""

    name = "session_keeper"

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        sessions: ports.SessionLedger,
        batches: ports.BatchLedger,
        interval_s: float,
    ) -> None:
        super().__init__()
        self._registry = registry
        self._sessions = sessions
        self._batches = batches
        self._interval_s = interval_s

    async def round(self) -> float:
        """Renews; a session that the ledger has ended meanwhile is closed."""
        heard = [s for s in self._registry.all() if s.heard]
        for session in heard:
            session.heard = False
        if heard:
            alive = await self._renew(heard)
            for session in heard:
                if session.session_id in alive:
                    # Only now: the word that keeps a worker's trust alive has to mean that the ledger renewed it.
                    session.desire()
                else:
                    self._registry.fence(session.session_id)
        await self._audit()
        return self._interval_s

    async def _renew(self, heard: list[worker_sessions.Session]) -> set[object]:
        beats = [records.Heartbeat(s.session_id, s.status.SerializeToString(), s.levels) for s in heard]
        try:
            return set(await self._sessions.renew(beats))
        except BaseException:
            for session in heard:
                session.heard = True
            raise

    async def _audit(self) -> None:
        """Takes back what was cancelled while the wake-up about it got lost."""
        for session in self._registry.all():
            held = {b: h for b, h in session.in_hand.items() if not h.settling}
            if not held:
                continue
            keys = [records.LeaseKey(batch_id, h.lease_token) for batch_id, h in held.items()]
            valid = await self._batches.still_leased(keys)
            for batch_id, one in held.items():
                if batch_id not in valid and session.in_hand.get(batch_id) is one and not one.settling:
                    session.revoke(batch_id, worker_pb2.CANCEL_REASON_LEASE_LOST)
