"""The keeper: extends the sessions that were heard of, in one statement a round, and drops those that were fenced. At
once where models were loaded or unloaded.

While the ledger is away nobody can expire a session, so the workers are told to go on: what they compute waits here for
its commit. But when the leader is heard while the ledger is away from here, then only this replica is cut off, and the
others will give its workers' batches away: its streams end, so that the workers go on at another replica, with all they
have in hand, before their sessions expire. Clock: monotonic, injected.
"""

from __future__ import annotations

import time
from uuid import UUID

from podium.worker.v1 import worker_pb2
from podium_runtime import clock, errors, logs
from podium_scheduler.app import loops, ports, records, wakers, worker_sessions
from podium_scheduler.domain import heartbeats

log = logs.get_logger(__name__)
# So long the leader is heard of in vain until this replica holds itself for cut off: after an outage of the ledger, not
# everybody finds it again at the same moment.
_CUT_OFF_AFTER_S = 2.0
_AUDITED_AT_ONCE = 2_000
_NEWS_EVERY_S = 0.25
# The leader says so every second.
_LEADER_IS_NEWS_S = 2.5


class SessionKeeper(loops.PatientLoop):
    """Renews this replica's sessions and checks that what they have in hand is still theirs."""

    name = "session_keeper"

    def __init__(
        self,
        registry: worker_sessions.SessionRegistry,
        sessions: ports.SessionLedger,
        batches: ports.BatchLedger,
        interval_s: float,
        lease_ttl_s: float,
        time: clock.Clock,
    ) -> None:
        """`interval_s`: of rounds, and of workers' heartbeats while there are few."""
        super().__init__()
        self._clock = time
        # Whoever decides on pods reads it in the ledger: what has a model, and has done what it was rented for, was not
        # rented in vain.
        registry.models_changed = wakers.Bell(self.wake, _NEWS_EVERY_S).ring
        self._in_vain = False
        """Whether the last renewal failed."""
        self._leader_heard_since = 0.0
        self._leader_heard_at = -_LEADER_IS_NEWS_S
        self._registry = registry
        self._sessions = sessions
        self._batches = batches
        self._interval_s = interval_s
        self._lease_ttl_s = lease_ttl_s

    def leader_heard(self) -> None:
        """Another replica has written the leader's heartbeat: it reaches the ledger."""
        now = self._clock.monotonic()
        if not self._leader_is_news(now):
            self._leader_heard_since = now
        self._leader_heard_at = now

    def _leader_is_news(self, now: float) -> bool:
        return now - self._leader_heard_at < _LEADER_IS_NEWS_S

    async def round(self) -> float:
        """Renews; a session that the ledger has ended meanwhile is closed."""
        sessions = self._registry.all()
        pace_s = heartbeats.interval_s(len(sessions), self._interval_s, self._lease_ttl_s)
        heard = [session for session in sessions if session.heard]
        for session in heard:
            session.heard, session.heartbeat_s = False, pace_s
        if heard:
            alive = await self._renew(heard)
            for session in heard:
                if session.session_id in alive:
                    wish = alive[session.session_id]
                    session.want(wish.wanted)
                    if wish.drain:
                        session.drain()
                    # Only now: the word that keeps a worker's trust alive means that the ledger renewed it, or that
                    # nobody can take from it (`_hold_on_or_let_go`).
                    session.desire()
                else:
                    self._registry.fence(session.session_id)
        await self._audit()
        return self._interval_s

    async def _renew(self, heard: list[worker_sessions.Session]) -> dict[UUID, records.Wish]:
        try:
            alive = await self._sessions.renew([_heartbeat(session) for session in heard])
        except BaseException as error:
            for session in heard:
                session.heard = True
            if isinstance(error, errors.Unavailable):
                self._hold_on_or_let_go(heard)
            raise
        self._in_vain = False
        return alive

    def _hold_on_or_let_go(self, sessions: list[worker_sessions.Session]) -> None:
        now = self._clock.monotonic()
        if not self._in_vain:
            # What the leader reached before does not count.
            self._in_vain, self._leader_heard_at = True, -_LEADER_IS_NEWS_S
        if not self._leader_is_news(now) or self._leader_heard_at - self._leader_heard_since < _CUT_OFF_AFTER_S:
            for session in sessions:
                session.desire()
            return
        log.warning("cut_off_from_the_ledger", sessions=len(sessions))
        for session in sessions:
            session.close()

    async def _audit(self) -> None:
        """Takes back what was cancelled while the wake-up about it got lost."""
        held = [
            (session, batch_id, one)
            for session in self._registry.all()
            for batch_id, one in session.in_hand.items()
            if not one.settling
        ]
        for start in range(0, len(held), _AUDITED_AT_ONCE):
            page = held[start : start + _AUDITED_AT_ONCE]
            valid = await self._batches.still_leased([records.LeaseKey(b, one.lease_token) for _, b, one in page])
            for session, batch_id, one in page:
                if batch_id not in valid and session.in_hand.get(batch_id) is one and not one.settling:
                    session.revoke(batch_id, worker_pb2.CANCEL_REASON_LEASE_LOST)


def _heartbeat(session: worker_sessions.Session) -> records.Heartbeat:
    status, apart = session.status.SerializeToString(), session.quarantine
    if apart is None:
        return records.Heartbeat(session.session_id, status, session.levels)
    left_s = max(0.0, apart.until - time.monotonic())
    return records.Heartbeat(session.session_id, status, session.levels, apart.reason, left_s)
