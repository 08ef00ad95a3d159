"""Statements about worker sessions. A lease lasts as long as its session: renewing is one row a session."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

_SUPERSEDE = text("""
    UPDATE sessions SET state = 'ENDED', expire_time = now()
    WHERE worker_id = :worker_id AND state <> 'ENDED' RETURNING session_id
""")

# What operators and the scheduler's checks decided about a worker outlives its stream. So does what it has loaded:
# until its next Status says otherwise, nobody is to think that its models have gone.
_STANDING = text("""
    SELECT drain, quarantine_reason,
        CAST(greatest(extract(epoch FROM quarantine_until - now()), 0) AS float) AS quarantine_left_s, wanted, status
    FROM sessions WHERE worker_id = :worker_id ORDER BY connect_time DESC LIMIT 1
""")

_OPEN = text("""
    INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, pod_id, hello, state, expire_time,
        drain, quarantine_reason, quarantine_until, wanted, status)
    VALUES (:session_id, :worker_id, :replica_id, :hostname, :version, :pod_id, :hello, 'OPEN',
        now() + CAST(:ttl AS interval),
        :drain, :quarantine_reason, now() + make_interval(secs => :quarantine_left_s),
        CAST(:wanted AS text[]), :status)
""")

# The token proves that the lease is the worker's own, whichever of its sessions took it.
_RESUME = text("""
    UPDATE batches b SET session_id = :session_id
    FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:tokens AS bytea[])) AS l(batch_id, lease_token), jobs j
    WHERE b.batch_id = l.batch_id AND b.lease_token = l.lease_token AND b.state = 'LEASED' AND j.job_id = b.job_id
    RETURNING b.batch_id, b.lease_token, b.attempt, b.job_id, j.workload, b.first_item, b.item_count, j.options
""")

_RENEW = text("""
    UPDATE sessions s
    SET status = h.status, credits = CAST(h.credits AS jsonb), heartbeat_time = now(),
        expire_time = now() + CAST(:ttl AS interval),
        quarantine_reason = h.reason, quarantine_until = now() + make_interval(secs => h.left_s)
    FROM unnest(CAST(:session_ids AS uuid[]), CAST(:statuses AS bytea[]), CAST(:credits AS text[]),
            CAST(:reasons AS text[]), CAST(:left_s AS float[]))
        AS h(session_id, status, credits, reason, left_s)
    WHERE s.session_id = h.session_id AND s.state = 'OPEN'
    RETURNING s.session_id, s.drain, s.wanted
""")

_BREAK = text("""
    UPDATE sessions SET state = 'BROKEN', credits = '{}',
        expire_time = least(expire_time, now() + CAST(:grace AS interval))
    WHERE session_id = :session_id AND state = 'OPEN'
""")

_END = text("""
    UPDATE sessions SET state = 'ENDED', expire_time = now() WHERE session_id = :session_id AND state <> 'ENDED'
""")

_DRAIN = text("""
    UPDATE sessions SET drain = true
    WHERE worker_id = :worker_id AND state <> 'ENDED' AND expire_time > now() RETURNING session_id
""")

_OPEN_AMONG = text("""
    SELECT session_id FROM sessions WHERE session_id = ANY(CAST(:session_ids AS uuid[])) AND state = 'OPEN'
""")

# Nobody can renew while the ledger is away: from its return on, every session has its whole time again. A heartbeat as
# old as that means that it has just returned, and the leader has not said so yet.
_END_EXPIRED = text("""
    UPDATE sessions SET state = 'ENDED' WHERE session_id IN (
        SELECT session_id FROM sessions
        WHERE state <> 'ENDED' AND expire_time <= now()
          AND NOT EXISTS (SELECT FROM cluster WHERE renewable_since > now() - CAST(:ttl AS interval)
                                                 OR leader_renew_time < now() - CAST(:away_after AS interval))
        ORDER BY expire_time LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING session_id
""")

# Leases of sessions that ended between the choice of the session and the commit of the claim.
_ENDED_WITH_LEASES = text("""
    SELECT DISTINCT b.session_id FROM batches b JOIN sessions s ON s.session_id = b.session_id
    WHERE b.state = 'LEASED' AND s.state = 'ENDED' LIMIT :limit
""")

_CREDITS = text("""
    SELECT c.key AS workload, CAST(sum(CAST(c.value AS int)) AS int) AS credits, CAST(count(*) AS int) AS workers
    FROM sessions s CROSS JOIN LATERAL jsonb_each_text(s.credits) AS c
    WHERE s.state = 'OPEN' GROUP BY c.key
""")

# A worker whose stream broke is back in a moment, with all that it has loaded.
# A pod that starts has not ended: said twice, so that the index of the open ones is used, however many there have been.
_PLACED = text("""
    SELECT s.session_id, s.hello, s.status, s.drain, s.quarantine_reason, s.wanted, p.workload
    FROM sessions s
    LEFT JOIN pods p ON p.worker_id = s.worker_id AND p.state = 'STARTING' AND p.end_time IS NULL
    WHERE s.state <> 'ENDED' AND s.expire_time > now() ORDER BY s.session_id
""")

_WANT = text("UPDATE sessions SET wanted = CAST(:wanted AS text[]) WHERE session_id = :session_id AND state <> 'ENDED'")

_DELETE_ENDED = text("""
    DELETE FROM sessions WHERE session_id IN (
        SELECT s.session_id FROM sessions s
        WHERE s.state = 'ENDED' AND s.expire_time < now() - CAST(:age AS interval)
          AND NOT EXISTS (SELECT FROM batches b WHERE b.session_id = s.session_id)
        ORDER BY s.expire_time LIMIT :limit)
""")


def away_after(lease_ttl: timedelta) -> timedelta:
    """The gap between heartbeats of the leader that counts as an absence; shorter ones end no session."""
    return max(lease_ttl / 2, timedelta(seconds=3))


class SessionLedger:
    """Worker sessions in Postgres. Every method is one transaction."""

    def __init__(self, database: Database, lease_ttl: timedelta) -> None:
        self._database = database
        self._ttl = lease_ttl

    @ledger_call
    async def open(
        self, new: records.NewSession, in_hand: Sequence[records.LeaseKey]
    ) -> tuple[list[records.ResumedLease], list[UUID], records.Standing]:
        """Opens a session, ends the worker's earlier ones, moves the leases it still has in hand over.

        Returns those leases, the superseded sessions (what these still hold, the worker does not have), and what was
        decided about the worker before.
        """
        async with self._database.transaction() as connection:
            superseded = list((await connection.scalars(_SUPERSEDE, {"worker_id": new.worker_id})).all())
            # Only now: whoever decided about the worker until here has committed, and later deciders find it here.
            before = (await connection.execute(_STANDING, {"worker_id": new.worker_id})).first()
            standing = records.Standing(*before) if before else records.Standing()
            values = {name: getattr(new, name) for name in records.NewSession.__dataclass_fields__}
            decided = {**asdict(standing), "wanted": list(standing.wanted)}
            await connection.execute(_OPEN, {**values, **decided, "ttl": self._ttl})
            resumed = await _resumed(connection, new.session_id, in_hand) if in_hand else []
        return resumed, superseded, standing

    @ledger_call
    async def renew(self, heartbeats: Sequence[records.Heartbeat]) -> dict[UUID, records.Wish]:
        """Extends the sessions that are still open; returns them, each with what is wanted of it. The others have been
        fenced."""
        values = {
            "ttl": self._ttl,
            "session_ids": [h.session_id for h in heartbeats],
            "statuses": [h.status for h in heartbeats],
            "credits": [json.dumps(dict(h.credits)) for h in heartbeats],
            "reasons": [h.quarantine_reason for h in heartbeats],
            "left_s": [h.quarantine_left_s for h in heartbeats],
        }
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_RENEW, values)).all()
        return {row.session_id: records.Wish(row.drain, row.wanted) for row in rows}

    @ledger_call
    async def drain(self, worker_id: UUID) -> UUID | None:
        """A worker is to finish and leave, over all of its sessions; returns the one it has, None when it has none."""
        async with self._database.transaction() as connection:
            found: UUID | None = await connection.scalar(_DRAIN, {"worker_id": worker_id})
            return found

    @ledger_call
    async def mark_broken(self, session_id: UUID, grace: timedelta) -> None:
        """The stream broke: the worker may resume within `grace`, and its lease, then the leases are lost."""
        async with self._database.transaction() as connection:
            await connection.execute(_BREAK, {"session_id": session_id, "grace": grace})

    @ledger_call
    async def end(self, session_id: UUID) -> None:
        """The worker has left."""
        async with self._database.transaction() as connection:
            await connection.execute(_END, {"session_id": session_id})

    @ledger_call
    async def open_among(self, session_ids: Iterable[UUID]) -> set[UUID]:
        """Those of the sessions that are open."""
        async with self._database.peek() as connection:
            return set((await connection.scalars(_OPEN_AMONG, {"session_ids": list(session_ids)})).all())

    @ledger_call
    async def end_expired(self, limit: int) -> list[UUID]:
        """Ends the sessions whose time is over; returns them, and ended ones that still hold leases.

        None for a TTL after a time in which the ledger was away: they could not be renewed.
        """
        values = {"limit": limit, "ttl": self._ttl, "away_after": away_after(self._ttl)}
        async with self._database.transaction() as connection:
            expired = (await connection.scalars(_END_EXPIRED, values)).all()
            stray = (await connection.scalars(_ENDED_WITH_LEASES, {"limit": limit})).all()
        return list({*expired, *stray})

    @ledger_call
    async def placed(self) -> list[records.PlacedSession]:
        """The sessions that are not over, with what their workers are and have loaded, and what is wanted of them."""
        async with self._database.peek() as connection:
            return [records.PlacedSession(*row) for row in (await connection.execute(_PLACED)).all()]

    @ledger_call
    async def want(self, wanted: Mapping[UUID, Sequence[str]]) -> None:
        """Notes which workloads sessions should keep loaded, the most wanted first; ended ones want nothing."""
        if not wanted:
            return
        async with self._database.transaction() as connection:
            await connection.execute(
                _WANT, [{"session_id": key, "wanted": list(wanted[key])} for key in sorted(wanted, key=str)]
            )

    @ledger_call
    async def credits(self) -> dict[str, int]:
        """Sum of the credits of all open sessions, by workload."""
        async with self._database.peek() as connection:
            return {row.workload: row.credits for row in (await connection.execute(_CREDITS)).all()}

    @ledger_call
    async def delete_ended(self, age: timedelta, limit: int) -> None:
        """Deletes sessions that ended longer than `age` ago."""
        async with self._database.transaction() as connection:
            await connection.execute(_DELETE_ENDED, {"age": age, "limit": limit})


async def _resumed(
    connection: AsyncConnection, session_id: UUID, in_hand: Sequence[records.LeaseKey]
) -> list[records.ResumedLease]:
    values = {
        "session_id": session_id,
        "batch_ids": [k.batch_id for k in in_hand],
        "tokens": [k.lease_token for k in in_hand],
    }
    return [records.ResumedLease(*row) for row in (await connection.execute(_RESUME, values)).all()]
