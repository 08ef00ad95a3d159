"""Statements about known items and the batches that wait for them: read, remember, let go, forget.

Nothing here is the truth about a job: every row may be lost, and costs a computation. Rows of `known_items` are written
in the order of (scope, item_hash), as claims are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text

from podium_scheduler.adapters.sql import finishing, item_claims, job_counters, offers
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import deduplication

# OFFSET 0: one index descent for each item, however many others are known and whatever the statistics say.
_KNOWN = text(f"""
    SELECT k.item_hash, k.batch_id, k.vector, k.made_by, k.token_count, k.max_tokens
    FROM unnest(CAST(:hashes AS bytea[])) AS asked(item_hash)
    CROSS JOIN LATERAL (
        SELECT * FROM known_items WHERE scope = :scope AND item_hash = asked.item_hash OFFSET 0) AS k
    WHERE k.vector IS NOT NULL OR k.batch_id IN (
        SELECT o.batch_id FROM waiting_batches w JOIN batches o ON o.batch_id = ANY(w.owners)
        WHERE w.batch_id = :batch_id AND w.until > now() AND {item_claims.COMPUTES})
""")

# Whoever has computed it, claim or not: one that could not wait any longer is as good as the owner.
_REMEMBER = text("""
    INSERT INTO known_items (scope, item_hash, batch_id, vector, made_by, token_count, max_tokens, expire_time)
    SELECT :scope, item_hash, :batch_id, vector, :made_by, token_count, max_tokens,
        now() + CAST(:retention AS interval)
    FROM unnest(CAST(:hashes AS bytea[]), CAST(:vectors AS bytea[]), CAST(:token_counts AS int[]),
                CAST(:max_tokens AS int[])) AS new(item_hash, vector, token_count, max_tokens)
    ORDER BY item_hash
    ON CONFLICT (scope, item_hash) DO UPDATE
    SET batch_id = EXCLUDED.batch_id, vector = EXCLUDED.vector, made_by = EXCLUDED.made_by,
        token_count = EXCLUDED.token_count, max_tokens = EXCLUDED.max_tokens, expire_time = EXCLUDED.expire_time
    WHERE known_items.vector IS NULL
""")

# What a crash of Postgres loses of it is computed again.
_NOT_WAITED_FOR = text("SET LOCAL synchronous_commit TO off")

# Its row may have gone with its patience while it was computed: then it waits for nobody, and is looked at next.
_WAIT_ON = text("""
    INSERT INTO waiting_batches (batch_id, job_id, app_id, owners, until)
    SELECT b.batch_id, j.job_id, j.app_id, '{}', now() + CAST(:patience AS interval)
    FROM batches b JOIN jobs j ON j.job_id = b.job_id WHERE b.batch_id = :batch_id
    ON CONFLICT (batch_id) DO UPDATE SET until = EXCLUDED.until
""")

# The oldest that are parked, but for those one of whose owners computes yet. One look at all owners, for the same ones
# are waited for by many.
_READY = text(f"""
    WITH looked AS (
        SELECT w.batch_id, w.owners FROM waiting_batches w
        JOIN batches b ON b.batch_id = w.batch_id AND b.state = 'PENDING' AND b.not_before > now()
        ORDER BY w.batch_id LIMIT :looked_at
    ), busy AS (
        SELECT coalesce(array_agg(o.batch_id), '{{}}') AS ids
        FROM (SELECT DISTINCT unnest(owners) AS batch_id FROM looked) AS every
        JOIN batches o ON o.batch_id = every.batch_id AND {item_claims.COMPUTES}
    )
    SELECT b.batch_id, b.job_id, j.workload, b.first_item, b.item_count, b.attempt, b.payload_offset, j.options,
        j.dedupe_scope, b.identities, j.priority
    FROM busy, looked JOIN batches b ON b.batch_id = looked.batch_id JOIN jobs j ON j.job_id = b.job_id
    WHERE NOT looked.owners && busy.ids ORDER BY b.batch_id LIMIT :limit
""")
_LOOKED_AT = 1_000

_ANYBODY_WAITS = text("SELECT EXISTS (SELECT FROM waiting_batches)")

_LET_GO = text("""
    WITH freed AS (
        UPDATE batches SET not_before = now()
        WHERE batch_id = ANY(CAST(:batch_ids AS bigint[])) AND state = 'PENDING' AND not_before > now()
    )
    DELETE FROM waiting_batches WHERE batch_id = ANY(CAST(:batch_ids AS bigint[]))
""")

# With the patience that it has left. A row that has gone meanwhile went with that.
_WAIT_FOR = text("""
    UPDATE waiting_batches SET owners = CAST(:owners AS bigint[]) WHERE batch_id = :batch_id
""")

_UNPARK = text("""
    UPDATE batches SET not_before = now() WHERE batch_id = :batch_id AND state = 'PENDING' AND not_before > now()
""")

_OVERDUE = text("""
    SELECT w.batch_id FROM waiting_batches w
    WHERE w.until <= now() OR NOT EXISTS (
        SELECT FROM batches b WHERE b.batch_id = w.batch_id AND b.state IN ('PENDING', 'QUEUED', 'LEASED'))
    ORDER BY w.batch_id LIMIT :limit
""")

# Nobody has it in hand, and no attempt is counted.
_ASSEMBLE = text("""
    UPDATE batches b
    SET state = 'COMPLETED', finish_time = now(), items_succeeded = b.item_count, items_failed = 0,
        items_truncated = d.items_truncated
    FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:counts AS int[]), CAST(:truncated AS int[]))
        AS d(batch_id, item_count, items_truncated)
    WHERE b.batch_id = d.batch_id AND b.state = 'PENDING' AND b.item_count = d.item_count
    RETURNING b.batch_id, b.job_id, b.first_item + b.item_count AS end_item, b.items_succeeded, b.items_failed,
        b.items_truncated, b.offered
""")

_START_JOBS = text("""
    UPDATE jobs SET state = 'RUNNING', start_time = now()
    WHERE job_id = ANY(CAST(:job_ids AS uuid[])) AND state = 'PENDING'
""")

_FORGET = text("""
    DELETE FROM known_items WHERE (scope, item_hash) IN (
        SELECT scope, item_hash FROM known_items WHERE expire_time <= now()
        ORDER BY expire_time LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


class KnownItemsLedger:
    """Known items in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(
        self,
        database: Database,
        terms: item_claims.Terms,
        retention: timedelta,
        news: offers.News = offers.untold,
    ) -> None:
        """`retention`: of results."""
        self._database = database
        self._terms = terms
        self._retention = retention
        self._news = news

    @property
    def patience(self) -> timedelta:
        """How long a batch waits for others at most."""
        return self._terms.patience

    @ledger_call
    async def known(self, batch_id: int, scope: bytes, hashes: Sequence[bytes]) -> records.Known:
        """What is known of a batch's items, and what of them it waits for."""
        values = {"batch_id": batch_id, "scope": scope, "hashes": list(hashes)}
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_KNOWN, values)).all()
        vectors = {
            r.item_hash: records.KnownVector(
                r.batch_id, records.Vector(r.vector, r.token_count, r.max_tokens), r.made_by
            )
            for r in rows
            if r.vector is not None
        }
        return records.Known(vectors, frozenset(r.item_hash for r in rows if r.vector is None))

    @ledger_call
    async def remember(self, new: records.Remembered) -> None:
        """Keeps what a batch has computed, for as long as vectors are kept; what is there already stays."""
        vectors = list(new.vectors.values())
        values = {
            "scope": new.scope,
            "batch_id": new.batch_id,
            "made_by": new.made_by,
            "retention": self._terms.retention,
            "hashes": list(new.vectors),
            "vectors": [v.row for v in vectors],
            "token_counts": [v.token_count for v in vectors],
            "max_tokens": [v.max_tokens for v in vectors],
        }
        async with self._database.transaction() as connection:
            await connection.execute(_NOT_WAITED_FOR)
            if vectors:
                await connection.execute(_REMEMBER, values)
            if new.waits:
                await connection.execute(_WAIT_ON, {"batch_id": new.batch_id, "patience": self._terms.patience})

    @ledger_call
    async def anybody_waits(self) -> bool:
        """Whether any batch is noted as waiting."""
        async with self._database.peek() as connection:
            return bool(await connection.scalar(_ANYBODY_WAITS))

    @ledger_call
    async def ready(self, limit: int) -> list[records.ParkedBatch]:
        """Parked batches that wait for nobody any more, the oldest first."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_READY, {"looked_at": _LOOKED_AT, "limit": limit})).all()
        return [records.ParkedBatch(*row) for row in rows]

    @ledger_call
    async def assemble(self, completions: Sequence[records.Completion]) -> set[int]:
        """Completes batches that are still PENDING, whose items are all known; returns their ids.

        The lease tokens do not count: nobody holds a lease.
        """
        values = {
            "batch_ids": [c.batch_id for c in completions],
            "counts": [c.item_count for c in completions],
            "truncated": [c.items_truncated for c in completions],
        }
        jobs = {c.job_id for c in completions}
        async with self._database.transaction() as connection:
            await job_counters.lock(connection, jobs)
            rows = (await connection.execute(_ASSEMBLE, values)).all()
            await connection.execute(_START_JOBS, {"job_ids": list({row.job_id for row in rows})})
            await finishing.count_deduplicated(connection, rows, completions)
            groups, released = await finishing.finish(connection, rows, self._retention, were_pending=True)
        self._news(groups, released)
        return {row.batch_id for row in rows}

    @ledger_call
    async def let_go(self, batch_ids: Sequence[int]) -> None:
        """Batches that wait no longer; those that are parked may be fed."""
        async with self._database.transaction() as connection:
            await connection.execute(_LET_GO, {"batch_ids": list(batch_ids)})

    @ledger_call
    async def wait_again(self, batch: records.ParkedBatch, missing: Sequence[bytes]) -> bool:
        """Of a batch whose owners have ended without all of its items: it takes over what nobody computes any more, and
        waits for those who have taken over the rest. Returns whether it has something to compute, and is let go for it.
        """
        batch_id, scope = batch.batch_id, batch.dedupe_scope
        ours = dict.fromkeys(missing, batch_id)
        async with self._database.transaction() as connection:
            others = await item_claims.claimed(connection, scope, batch.priority, ours, self._terms)
            found = deduplication.waits([(batch_id, missing)], ours, others)
            if not found:
                await connection.execute(_LET_GO, {"batch_ids": [batch_id]})
                return True
            await connection.execute(_WAIT_FOR, {"batch_id": batch_id, "owners": list(found[0].owners)})
            if not found[0].parked:
                await connection.execute(_UNPARK, {"batch_id": batch_id})
        return not found[0].parked

    @ledger_call
    async def overdue(self, limit: int) -> list[int]:
        """Batches that are noted as waiting and have no patience left, or have ended."""
        async with self._database.transaction() as connection:
            return list((await connection.scalars(_OVERDUE, {"limit": limit})).all())

    @ledger_call
    async def forget(self, limit: int) -> int:
        """Forgets the next items whose time is up; returns how many."""
        async with self._database.transaction() as connection:
            return (await connection.execute(_FORGET, {"limit": limit})).rowcount
