"""Statements about pods: intend, move, sight, adopt, and what they cost.

Every arrow of `domain/pods.py` is one UPDATE guarded by pod id and state; no row means that the writer is stale. Each
call is a few statements whatever the number of pods, and reads only those whose life is not over. A pod's prices move
in the transaction of what moves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql import schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import costs, join_tokens, pods

# The newest session decides; of one that was deleted nobody has heard for longer than any patience. While the ledger
# was away nobody could renew: that time does not count.
_GONE = """
    CASE WHEN p.worker_id IS NULL OR s.state <> 'ENDED' THEN NULL
         ELSE greatest(coalesce(s.expire_time, p.registered_time), c.renewable_since) END AS worker_gone_time"""
_FIELDS = tuple(pods.Pod.__dataclass_fields__)
_STATE, _REASON = _FIELDS.index("state"), _FIELDS.index("reason")
_STATES = {state.value: state for state in pods.State}
_REASONS = {reason.value: reason for reason in pods.Reason}
_SELECT = f"""
    SELECT {", ".join(_GONE if name == "worker_gone_time" else f"p.{name}" for name in _FIELDS)}
    FROM pods p
    LEFT JOIN LATERAL (
        SELECT state, expire_time FROM sessions WHERE worker_id = p.worker_id ORDER BY connect_time DESC LIMIT 1
    ) AS s ON p.end_time IS NULL
    LEFT JOIN cluster c ON p.end_time IS NULL
"""
_CENSUS = text(f"{_SELECT} WHERE p.end_time IS NULL ORDER BY p.create_time, p.pod_id")
_CENSUS_OF = text(f"{_SELECT} WHERE p.end_time IS NULL AND p.provider = :provider ORDER BY p.create_time, p.pod_id")
_STARTING = text(f"{_SELECT} WHERE p.end_time IS NULL AND p.state = 'STARTING' ORDER BY p.create_time, p.pod_id")
_NAMED = text(f"{_SELECT} WHERE p.name = ANY(CAST(:names AS text[]))")
_POD = text(f"{_SELECT} WHERE p.pod_id = :pod_id")
_REQUESTED = text(f"""
    {_SELECT} WHERE p.pod_id = ANY(CAST(:pod_ids AS uuid[])) OR p.request_id = ANY(CAST(:request_ids AS uuid[]))
""")
_NEWEST = text(f"{_SELECT} ORDER BY p.create_time DESC, p.pod_id DESC LIMIT :limit")
_OLDER = text(f"""
    {_SELECT} WHERE (p.create_time, p.pod_id) < (:create_time, :pod_id)
    ORDER BY p.create_time DESC, p.pod_id DESC LIMIT :limit
""")
_HISTORY = text("SELECT time, state, reason, detail FROM pod_events WHERE pod_id = :pod_id ORDER BY event_id")

_MOVE = text("""
    WITH moves AS MATERIALIZED (
        SELECT *, CASE WHEN provider_pod_id IS NOT NULL THEN now() END AS seen_time FROM unnest(
            CAST(:pod_ids AS uuid[]), CAST(:befores AS text[]), CAST(:afters AS text[]), CAST(:reasons AS text[]),
            CAST(:details AS text[]), CAST(:provider_pod_ids AS text[]), CAST(:prices AS numeric[]),
            CAST(:create_times AS timestamptz[]), CAST(:tokens AS bytea[])
        ) AS m(pod_id, before, after, reason, detail, provider_pod_id, price, create_time, token)
    ), moved AS (
        UPDATE pods p SET
            state = m.after, detail = m.detail,
            reason = CASE WHEN m.after IN ('CREATING','STARTING','READY') THEN 'NONE'
                          ELSE coalesce(m.reason, p.reason) END,
            provider_pod_id = coalesce(nullif(p.provider_pod_id, ''), m.provider_pod_id, ''),
            price_usd_per_hour = coalesce(m.price, p.price_usd_per_hour),
            join_token_sha256 = coalesce(m.token, p.join_token_sha256),
            join_token_expire_time = CASE WHEN m.token IS NULL THEN p.join_token_expire_time
                                          ELSE now() + CAST(:token_ttl AS interval) END,
            call_time = CASE WHEN m.after IN ('CREATING','DESTROYING')
                             THEN coalesce(p.call_time, least(m.create_time, now())) ELSE p.call_time END,
            listed_time = coalesce(p.listed_time, m.seen_time),
            last_seen_time = coalesce(m.seen_time, p.last_seen_time),
            ready_time = CASE WHEN m.after = 'READY' THEN coalesce(p.ready_time, now()) ELSE p.ready_time END,
            drain_time = CASE m.after WHEN 'DRAINING' THEN now() WHEN 'READY' THEN NULL ELSE p.drain_time END,
            destroy_time = CASE m.after WHEN 'DESTROYING' THEN coalesce(p.destroy_time, now()) ELSE p.destroy_time END,
            end_time = CASE WHEN m.after IN ('DESTROYED','LOST','FAILED') THEN now() END
        FROM moves m WHERE p.pod_id = m.pod_id AND p.state = m.before
        RETURNING p.pod_id, p.state, p.reason, p.detail
    ), noted AS (
        INSERT INTO pod_events (pod_id, state, reason, detail) SELECT * FROM moved
    )
    SELECT pod_id FROM moved
""")

# No state guards it: what the provider shows is true of the pod whatever else has become of it.
_SIGHT = text("""
    UPDATE pods p SET
        provider_pod_id = coalesce(nullif(p.provider_pod_id, ''), s.provider_pod_id),
        listed_time = coalesce(p.listed_time, now()), last_seen_time = now(),
        price_usd_per_hour = coalesce(s.price, p.price_usd_per_hour)
    FROM unnest(CAST(:pod_ids AS uuid[]), CAST(:provider_pod_ids AS text[]), CAST(:prices AS numeric[]))
        AS s(pod_id, provider_pod_id, price)
    WHERE p.pod_id = s.pod_id AND p.state IN ('STARTING','READY','DRAINING','DESTROYING')
""")

_CLOSE_SPANS = text("""
    UPDATE pod_prices s SET end_time = greatest(s.start_time, least(e.end_time, now()))
    FROM unnest(CAST(:pod_ids AS uuid[]), CAST(:ends AS timestamptz[])) AS e(pod_id, end_time)
    WHERE s.pod_id = e.pod_id AND s.end_time IS NULL
""")
# It was billed all the time, whatever we believed.
_REOPEN_SPANS = text("""
    UPDATE pod_prices s SET end_time = NULL
    FROM (SELECT pod_id, max(start_time) AS start_time FROM pod_prices
          WHERE pod_id = ANY(CAST(:pod_ids AS uuid[])) GROUP BY pod_id) AS last
    WHERE s.pod_id = last.pod_id AND s.start_time = last.start_time
""")
_END_OLD_PRICES = text("""
    UPDATE pod_prices s SET end_time = now() FROM pods p
    WHERE p.pod_id = ANY(CAST(:pod_ids AS uuid[])) AND s.pod_id = p.pod_id AND s.end_time IS NULL
      AND s.price_usd_per_hour <> p.price_usd_per_hour
""")
# The first span begins with the create call, the others where the one before has just ended.
_START_SPANS = text("""
    INSERT INTO pod_prices (pod_id, price_usd_per_hour, start_time)
    SELECT p.pod_id, p.price_usd_per_hour,
        CASE WHEN EXISTS (SELECT FROM pod_prices s WHERE s.pod_id = p.pod_id) THEN now() ELSE p.call_time END
    FROM pods p
    WHERE p.pod_id = ANY(CAST(:pod_ids AS uuid[])) AND p.provider_pod_id <> '' AND p.end_time IS NULL
      AND NOT EXISTS (SELECT FROM pod_prices s WHERE s.pod_id = p.pod_id AND s.end_time IS NULL)
""")
_SPANS = text("""
    SELECT s.pod_id, s.start_time, s.end_time, s.price_usd_per_hour, p.gpu_count
    FROM pod_prices s JOIN pods p ON p.pod_id = s.pod_id
    WHERE (s.end_time IS NULL OR s.end_time > :start) AND s.start_time < :end
    ORDER BY s.pod_id, s.start_time
""")
# As domain.costs has it: of each span whole micro-USD, rounded down. Summed up here, for the day's are read in each
# decision.
_SPENT = text("""
    SELECT coalesce(sum(div(s.price_usd_per_hour * 1000000 * extract(epoch FROM
        least(s.end_time, CAST(:end AS timestamptz)) - greatest(s.start_time, CAST(:start AS timestamptz))
    ) * 1000000, 3600000000)), 0)
    FROM pod_prices s WHERE (s.end_time IS NULL OR s.end_time > :start) AND s.start_time < :end
""")

_NOTE = text("""
    INSERT INTO pod_events (pod_id, state, reason, detail)
    SELECT pod_id, state, reason, detail FROM pods WHERE pod_id = ANY(CAST(:pod_ids AS uuid[]))
""")
_GRANT = text("""
    SELECT state, join_token_sha256, join_token_expire_time, worker_id, now() AS now
    FROM pods WHERE pod_id = :pod_id FOR NO KEY UPDATE
""")
_FIRST_USE = text("""
    UPDATE pods SET worker_id = :worker_id, registered_time = now(), join_token_used_time = now()
    WHERE pod_id = :pod_id AND worker_id IS NULL
      AND NOT EXISTS (SELECT FROM pods q WHERE q.worker_id = :worker_id AND q.end_time IS NULL)
    RETURNING pod_id
""")

_FORGET = text("""
    DELETE FROM pods WHERE pod_id IN (
        SELECT pod_id FROM pods p
        WHERE p.end_time <= now() - CAST(:age AS interval)
            AND NOT EXISTS (SELECT FROM pod_uses u JOIN jobs j ON j.job_id = u.job_id WHERE u.pod_id = p.pod_id)
        ORDER BY p.end_time LIMIT :limit FOR UPDATE SKIP LOCKED
    )
""")


class PodLedger:
    """Pods in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database, token_ttl: timedelta) -> None:
        """`token_ttl`: from a pod's create call to the last moment at which its worker may register."""
        self._database = database
        self._token_ttl = token_ttl

    @ledger_call
    async def intend(self, wanted: Sequence[records.NewPod]) -> list[pods.Pod]:
        """Writes intents down; returns their pods in the same order, for a request id seen before the first one's."""
        if not wanted:
            return []
        insert = postgresql.insert(schema.pods).values([{**asdict(new), "state": "INTENDED"} for new in wanted])
        made = insert.on_conflict_do_nothing(index_elements=["request_id"]).returning(schema.pods.c.pod_id)
        keys = {"pod_ids": [n.pod_id for n in wanted], "request_ids": [n.request_id for n in wanted if n.request_id]}
        async with self._database.transaction() as connection:
            await connection.execute(_NOTE, {"pod_ids": list((await connection.scalars(made)).all())})
            found = await _pods(connection, _REQUESTED, keys)
        by_id = {pod.pod_id: pod for pod in found}
        by_request = {pod.request_id: pod for pod in found if pod.request_id}
        return [by_request[new.request_id] if new.request_id else by_id[new.pod_id] for new in wanted]

    @ledger_call
    async def census(self, provider: str = "") -> pods.Census:
        """All pods whose life is not over, the oldest first; of every provider when none is named."""
        async with self._database.peek() as connection:
            now: datetime = await connection.scalar(text("SELECT now()"))
            statement, values = (_CENSUS_OF, {"provider": provider}) if provider else (_CENSUS, {})
            return pods.Census(now, tuple(await _pods(connection, statement, values)))

    @ledger_call
    async def starting(self) -> list[pods.Pod]:
        """Those that are STARTING, the oldest first."""
        async with self._database.peek() as connection:
            return await _pods(connection, _STARTING, {})

    @ledger_call
    async def pods_named(self, names: Sequence[str]) -> dict[str, pods.Pod]:
        """Those that there ever were, by name."""
        async with self._database.peek() as connection:
            return {pod.name: pod for pod in await _pods(connection, _NAMED, {"names": list(names)})}

    @ledger_call
    async def pod(self, pod_id: UUID) -> pods.Pod | None:
        """One pod, of whatever state."""
        async with self._database.transaction() as connection:
            return next(iter(await _pods(connection, _POD, {"pod_id": pod_id})), None)

    @ledger_call
    async def history(self, pod_id: UUID) -> list[pods.Event]:
        """What became of a pod, the oldest first."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_HISTORY, {"pod_id": pod_id})).all()
        return [pods.Event(r.time, pods.State(r.state), pods.Reason(r.reason), r.detail) for r in rows]

    @ledger_call
    async def list_pods(self, before: tuple[datetime, UUID] | None, limit: int) -> list[pods.Pod]:
        """Pods of any state, newest first, older than `before` (create_time, pod_id)."""
        values: dict[str, object] = {"limit": limit}
        if before:
            values |= {"create_time": before[0], "pod_id": before[1]}
        async with self._database.peek() as connection:
            return await _pods(connection, _OLDER if before else _NEWEST, values)

    @ledger_call
    async def move(self, moves: Sequence[pods.Move]) -> set[UUID]:
        """Moves pods, at most one arrow each; returns those that were where the move begins."""
        async with self._database.transaction() as connection:
            moved = set((await connection.scalars(_MOVE, self._values(moves))).all())
            done = [move for move in moves if move.pod_id in moved]
            ended = [move for move in done if move.after in pods.FINAL]
            if ended:
                ends = {"pod_ids": [m.pod_id for m in ended], "ends": [m.bill_end for m in ended]}
                await connection.execute(_CLOSE_SPANS, ends)
            reopened = [move.pod_id for move in done if move.before in pods.FINAL]
            if reopened:
                await connection.execute(_REOPEN_SPANS, {"pod_ids": reopened})
            await _price(connection, [move.pod_id for move in done if move.sighting])
        return moved

    def _values(self, moves: Sequence[pods.Move]) -> dict[str, object]:
        sightings = [move.sighting for move in moves]
        return {
            "pod_ids": [m.pod_id for m in moves],
            "befores": [m.before for m in moves],
            "afters": [m.after for m in moves],
            "reasons": [m.reason for m in moves],
            "details": [m.detail for m in moves],
            "provider_pod_ids": [s and s.provider_pod_id for s in sightings],
            "prices": [s and s.price_usd_per_hour for s in sightings],
            "create_times": [s and s.create_time for s in sightings],
            "tokens": [m.join_token_sha256 for m in moves],
            "token_ttl": self._token_ttl,
        }

    @ledger_call
    async def forget_ended(self, age: timedelta, limit: int) -> int:
        """Deletes pods that ended so long ago and that no job in the ledger had; with their history, bill and uses.
        Returns how many, `limit` at most."""
        async with self._database.transaction() as connection:
            return (await connection.execute(_FORGET, {"age": age, "limit": limit})).rowcount

    @ledger_call
    async def sight(self, sightings: Mapping[UUID, pods.Sighting]) -> None:
        """Notes what the provider shows of pods that stay where they are."""
        values = {
            "pod_ids": list(sightings),
            "provider_pod_ids": [s.provider_pod_id for s in sightings.values()],
            "prices": [s.price_usd_per_hour for s in sightings.values()],
        }
        async with self._database.transaction() as connection:
            await connection.execute(_SIGHT, values)
            await _price(connection, list(sightings))

    @ledger_call
    async def adopt(self, orphans: Sequence[pods.Orphan]) -> None:
        """Takes pods in that the provider lists and the ledger did not know; their bill begins with their making."""
        pod_ids = [orphan.pod_id for orphan in orphans]
        insert = postgresql.insert(schema.pods).values([_orphan(one) for one in orphans])
        async with self._database.transaction() as connection:
            await connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
            await connection.execute(_NOTE, {"pod_ids": pod_ids})
            await _price(connection, pod_ids)

    @ledger_call
    async def redeem(self, token_sha256: bytes, pod_id: UUID, worker_id: UUID) -> join_tokens.Refusal | None:
        """Lets a worker join with the digest of a pod's token; see `domain.join_tokens`. None: it may."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(_GRANT, {"pod_id": pod_id})).first()
            if row is None:
                return join_tokens.Refusal.WRONG
            grant = join_tokens.Grant(
                pods.State(row.state), row.join_token_sha256, row.join_token_expire_time, row.worker_id
            )
            refusal = join_tokens.refusal(grant, token_sha256, worker_id, row.now)
            if refusal is None and row.worker_id is None:
                used = await connection.scalar(_FIRST_USE, {"pod_id": pod_id, "worker_id": worker_id})
                # A worker runs on one pod.
                return None if used else join_tokens.Refusal.USED
            return refusal

    @ledger_call
    async def spans(self, start: datetime, end: datetime) -> list[costs.Span]:
        """Everything that is billed between two times; the spans are whole, not cut at them."""
        async with self._database.peek() as connection:
            rows = (await connection.execute(_SPANS, {"start": start, "end": end})).all()
        return [costs.Span(*row) for row in rows]

    @ledger_call
    async def spent(self, start: datetime, end: datetime) -> int:
        """What all pods cost between two times, in micro-USD."""
        async with self._database.peek() as connection:
            return int(await connection.scalar(_SPENT, {"start": start, "end": end}))


async def _pods(connection: AsyncConnection, statement: TextClause, values: Mapping[str, object]) -> list[pods.Pod]:
    return [_pod(row) for row in (await connection.execute(statement, values)).all()]


def _pod(row: Row[Any]) -> pods.Pod:
    """By place rather than by name: a round reads each pod a few times, and there may be a thousand."""
    values = list(row)
    values[_STATE], values[_REASON] = _STATES[values[_STATE]], _REASONS[values[_REASON]]
    return pods.Pod(*values)


async def _price(connection: AsyncConnection, pod_ids: Iterable[UUID]) -> None:
    """Each of the pods has one open span, at its newest price."""
    values = {"pod_ids": list(pod_ids)}
    if values["pod_ids"]:
        await connection.execute(_END_OLD_PRICES, values)
        await connection.execute(_START_SPANS, values)


def _orphan(orphan: pods.Orphan) -> dict[str, object]:
    seen, now = orphan.sighting, func.now()
    ends = orphan.state is pods.State.DESTROYING
    return {
        "pod_id": orphan.pod_id,
        "name": orphan.name,
        "provider": orphan.provider,
        "provider_pod_id": seen.provider_pod_id,
        "state": orphan.state,
        "reason": pods.Reason.ORPHAN if ends else pods.Reason.NONE,
        "detail": "listed, and not in the ledger",
        "gpu_type": seen.gpu_type,
        "gpu_count": seen.gpu_count,
        "price_usd_per_hour": seen.price_usd_per_hour or Decimal(0),
        "call_time": func.least(seen.create_time, now) if seen.create_time else now,
        "listed_time": now,
        "last_seen_time": now,
        "destroy_time": now if ends else None,
    }
