"""Admission of a job whose identical items are computed once: what each batch claims, and for whom it waits.

Runs in the admission's transaction, for such jobs only. Claims are inserted in the order of their hashes, so that two
admissions, or an admission and whoever remembers vectors, wait for one another in one direction. Who finds the claim
of another has waited for its commit: so of two jobs with the same items one sees the other, and only one waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.app import records
from podium_scheduler.domain import deduplication

_INSERT_BATCHES = text("""
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding, identities)
    SELECT :job_id, first_item, item_count, payload, payload_encoding, identities
    FROM unnest(CAST(:first_items AS int[]), CAST(:item_counts AS int[]), CAST(:payloads AS bytea[]),
                CAST(:encodings AS smallint[]), CAST(:identities AS bytea[]))
        AS new(first_item, item_count, payload, payload_encoding, identities)
    RETURNING batch_id, first_item
""")

_CLAIM = text("""
    INSERT INTO known_items (scope, item_hash, batch_id, expire_time)
    SELECT :scope, item_hash, batch_id, now() + CAST(:retention AS interval)
    FROM unnest(CAST(:hashes AS bytea[]), CAST(:batch_ids AS bigint[])) AS new(item_hash, batch_id)
    ORDER BY item_hash
    ON CONFLICT DO NOTHING
""")

# Of a batch `o`: it has yet to compute what it has claimed. One that is parked has done so; to wait for it would be to
# wait for one that waits, perhaps for the same one. It is told by not being fed before its patience ends: a batch that
# waits out the back-off of a failed attempt is fed sooner.
COMPUTES = """(o.state IN ('QUEUED', 'LEASED') OR o.state = 'PENDING' AND NOT EXISTS (
        SELECT FROM waiting_batches p WHERE p.batch_id = o.batch_id AND p.until <= o.not_before))"""

# A claim whose batch computes it no more: it failed, was cancelled, or its item has an error. One that somebody is
# about to write is passed over: nobody waits here who holds what others wait for.
_TAKE_OVER = text(f"""
    WITH dead AS (
        SELECT k.item_hash, new.batch_id
        FROM unnest(CAST(:hashes AS bytea[]), CAST(:batch_ids AS bigint[])) AS new(item_hash, batch_id)
        CROSS JOIN LATERAL (
            SELECT item_hash FROM known_items c
            WHERE c.scope = :scope AND c.item_hash = new.item_hash AND c.vector IS NULL AND NOT EXISTS (
                SELECT FROM batches o WHERE o.batch_id = c.batch_id AND {COMPUTES})
            FOR UPDATE OF c SKIP LOCKED) AS k
    )
    UPDATE known_items k SET batch_id = dead.batch_id, expire_time = now() + CAST(:retention AS interval)
    FROM dead WHERE k.scope = :scope AND k.item_hash = dead.item_hash
""")

# Those of others. Awaitable: its owner is fed no later than this job, as far as priorities tell.
_CLAIMS = text(f"""
    SELECT k.item_hash, k.batch_id, k.vector IS NOT NULL AS known,
        coalesce({COMPUTES} AND j.priority <= :priority, false) AS awaitable
    FROM unnest(CAST(:hashes AS bytea[]), CAST(:batch_ids AS bigint[])) AS new(item_hash, batch_id)
    CROSS JOIN LATERAL (
        SELECT item_hash, batch_id, vector FROM known_items c
        WHERE c.scope = :scope AND c.item_hash = new.item_hash AND c.batch_id <> new.batch_id OFFSET 0) AS k
    LEFT JOIN batches o ON o.batch_id = k.batch_id AND k.vector IS NULL
    LEFT JOIN jobs j ON j.job_id = o.job_id
""")

_WAITING_JOBS = text("SELECT count(DISTINCT job_id) FROM waiting_batches WHERE app_id = :app_id")

_WAIT = text("""
    WITH pairs(batch_id, owner) AS (
        SELECT * FROM unnest(CAST(:batch_ids AS bigint[]), CAST(:owners AS bigint[]))
    )
    INSERT INTO waiting_batches (batch_id, job_id, app_id, owners, until)
    SELECT batch_id, :job_id, :app_id, coalesce(array_agg(owner) FILTER (WHERE owner IS NOT NULL), '{}'),
        now() + CAST(:patience AS interval)
    FROM pairs GROUP BY batch_id
""")

# Not fed before the assembler, or the end of its patience, lets it go.
_PARK = text("""
    UPDATE batches SET not_before = now() + CAST(:patience AS interval)
    WHERE batch_id = ANY(CAST(:batch_ids AS bigint[]))
""")


@dataclass(frozen=True, slots=True)
class Terms:
    """How long vectors are remembered, and how long at most a batch waits for others."""

    retention: timedelta = timedelta(days=7)
    patience: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Cut:
    """A job's items by their hashes, each batch named by its first item."""

    batches: Sequence[tuple[int, Sequence[bytes]]]
    owners: Mapping[bytes, int]
    """The first batch that has an item."""


async def cut(new: records.NewJob) -> Cut:
    """Off the event loop, and before the transaction: 50,000 items take a while."""

    def made() -> Cut:
        batches = [(b.first_item, deduplication.split(b.hashes, 0, b.item_count)) for b in new.batches]
        return Cut(batches, deduplication.first_owners(batches))

    return await asyncio.to_thread(made)


async def insert_batches(
    connection: AsyncConnection,
    job_id: UUID,
    new: records.NewJob,
    of: Cut,
    rows: Mapping[str, object],
    terms: Terms,
) -> None:
    """Writes the batches of a job, claims their items, and notes which of them wait for others.

    `rows` are the arrays of a plain admission.
    """
    values = {**rows, "identities": [b.identities for b in new.batches]}
    ids = {r.first_item: r.batch_id for r in (await connection.execute(_INSERT_BATCHES, values)).all()}
    ours = {item_hash: ids[first_item] for item_hash, first_item in of.owners.items()}
    others = await claimed(connection, new.scope, new.priority, ours, terms)
    batches = [(ids[first_item], hashes) for first_item, hashes in of.batches]
    waits = await asyncio.to_thread(deduplication.waits, batches, ours, others)
    if waits and await connection.scalar(_WAITING_JOBS, {"app_id": new.app_id}) < deduplication.MAX_WAITING_JOBS:
        await _wait(connection, job_id, new, waits, terms)


async def claimed(
    connection: AsyncConnection, scope: bytes, priority: int, owners: Mapping[bytes, int], terms: Terms
) -> dict[bytes, deduplication.Claim]:
    """Claims for batches (`owners`, by hash) what nobody has or computes any more; returns the claims of others.

    `priority`: of the batches' job.
    """
    ours: dict[str, Any] = {"scope": scope, "hashes": list(owners), "batch_ids": list(owners.values())}
    await connection.execute(_CLAIM, {**ours, "retention": terms.retention})
    await connection.execute(_TAKE_OVER, {**ours, "retention": terms.retention})
    rows = (await connection.execute(_CLAIMS, {**ours, "priority": priority})).all()
    return {r.item_hash: deduplication.Claim(r.batch_id, r.known, r.awaitable) for r in rows}


async def _wait(
    connection: AsyncConnection, job_id: UUID, new: records.NewJob, waits: Sequence[deduplication.Wait], terms: Terms
) -> None:
    patience = terms.patience
    if new.completion_window is not None:
        # What was waited for in vain has to be computed in time.
        patience = min(patience, new.completion_window / 4)
    pairs = [(wait.batch_id, owner) for wait in waits for owner in wait.owners or (None,)]
    values = {
        "job_id": job_id,
        "app_id": new.app_id,
        "patience": patience,
        "batch_ids": [batch_id for batch_id, _ in pairs],
        "owners": [owner for _, owner in pairs],
    }
    await connection.execute(_WAIT, values)
    parked = [wait.batch_id for wait in waits if wait.parked]
    await connection.execute(_PARK, {"batch_ids": parked, "patience": patience})
