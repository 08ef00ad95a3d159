"""The outbox: what finishes is offered to the app's consumer groups, and what they have all acknowledged is released.

Promises: for every group that is open when a batch finishes, a delivery is written in the transaction in which it
finishes, whichever way it finishes; the same for the end of a job. Each statement here runs in a transaction that has
locked the jobs it names. That is what makes opening a group safe: whoever fills a new group locks a job and offers what
has finished of it, and whoever finishes a batch later has locked the job after that, and so sees the group.

`ready` says of a delivery that it may be given out, so that a claim never looks at those that may not: a batch's while
the batch is finished, a job's end while the job is final and the group has nothing else of it. Whatever changes that
changes `ready` in the same transaction, here.

`offered` marks what is computed again because its result was lost: it was offered when it finished first, so only the
deliveries that were not acknowledged then are left, and no new ones are made. A reader may have acknowledged it too in
the meantime (`jobs.acknowledged_item`): so whatever finishes is released in the same transaction when nobody waits for
it. What an operator requeues is another matter for the groups: its outcome will be another one, so its deliveries are
withdrawn and it is offered anew, to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.app import records

News = Callable[[set[int], Sequence[records.Released]], None]
"""Told after a commit: the groups that have new deliveries, and what was released."""


def untold(groups: set[int], released: Sequence[records.Released]) -> None:
    """For ledgers whose news nobody waits for."""


_OFFER = text("""
    WITH groups AS (
        SELECT g.group_id, j.job_id, j.state, j.offered FROM jobs j
        JOIN consumer_groups g ON g.app_id = j.app_id AND g.retire_time IS NULL AND g.workload IN ('', j.workload)
        WHERE j.job_id = ANY(CAST(:job_ids AS uuid[]))
    ), finished AS (
        INSERT INTO deliveries (group_id, job_id, batch_id)
        SELECT g.group_id, b.job_id, b.batch_id FROM groups g
        JOIN batches b ON b.job_id = g.job_id AND b.batch_id = ANY(CAST(:batch_ids AS bigint[])) AND NOT b.offered
        ORDER BY b.job_id, b.first_item
        ON CONFLICT (batch_id, group_id) DO NOTHING
        RETURNING group_id
    ), waiting AS (
        SELECT d.delivery_id FROM deliveries d JOIN batches b ON b.batch_id = d.batch_id
        WHERE d.batch_id = ANY(CAST(:batch_ids AS bigint[])) AND b.offered AND NOT d.ready
        ORDER BY d.delivery_id FOR UPDATE OF d
    ), again AS (
        UPDATE deliveries SET ready = true FROM waiting WHERE deliveries.delivery_id = waiting.delivery_id
        RETURNING group_id
    ), ended AS (
        INSERT INTO deliveries (group_id, job_id, ready)
        SELECT g.group_id, g.job_id, false FROM groups g
        WHERE g.state IN ('COMPLETED', 'CANCELLED', 'EXPIRED') AND NOT g.offered
    )
    SELECT group_id FROM finished UNION SELECT group_id FROM again
""")

_READY_ENDS = text("""
    WITH due AS (
        SELECT e.delivery_id FROM deliveries e JOIN jobs j ON j.job_id = e.job_id
        WHERE e.job_id = ANY(CAST(:job_ids AS uuid[])) AND e.batch_id IS NULL AND NOT e.ready
          AND j.state IN ('COMPLETED', 'CANCELLED', 'EXPIRED') AND NOT EXISTS (
              SELECT FROM deliveries o
              WHERE o.job_id = e.job_id AND o.group_id = e.group_id AND o.batch_id IS NOT NULL)
        ORDER BY e.delivery_id FOR UPDATE OF e
    )
    UPDATE deliveries SET ready = true FROM due WHERE deliveries.delivery_id = due.delivery_id
    RETURNING group_id
""")

_HOLD_BACK = text("""
    WITH waiting AS (
        SELECT delivery_id FROM deliveries
        WHERE ready AND (batch_id = ANY(CAST(:batch_ids AS bigint[])) OR job_id = :job_id AND batch_id IS NULL)
        ORDER BY delivery_id FOR UPDATE
    )
    UPDATE deliveries SET ready = false FROM waiting WHERE deliveries.delivery_id = waiting.delivery_id
""")

# Deliveries of a batch that is computed again stay; its halves are offered to the same groups.
_OFFER_HALVES = text("""
    INSERT INTO deliveries (group_id, job_id, batch_id, ready)
    SELECT d.group_id, d.job_id, h.second, false FROM unnest(CAST(:firsts AS bigint[]), CAST(:seconds AS bigint[]))
        AS h(first, second)
    JOIN deliveries d ON d.batch_id = h.first
""")

# It comes anew, and the end of its job after it. Whoever holds one of these now acknowledges what is no more.
_WITHDRAW = text("""
    DELETE FROM deliveries WHERE job_id = :job_id AND (batch_id = :batch_id OR batch_id IS NULL)
""")
_WILL_END_ANEW = text("UPDATE jobs SET offered = false WHERE job_id = :job_id")

# A group that is still being filled has not been offered all that it is to get. Where there are no groups, the reader's
# cursor decides.
_RELEASE = text("""
    UPDATE batches b SET state = CASE b.state WHEN 'COMPLETED' THEN 'DELIVERED' ELSE b.state END, payload = NULL
    FROM jobs j
    WHERE b.batch_id = ANY(CAST(:batch_ids AS bigint[])) AND j.job_id = b.job_id AND b.payload IS NOT NULL
      AND NOT j.results_expired
      AND b.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
      AND NOT EXISTS (SELECT FROM deliveries d WHERE d.batch_id = b.batch_id)
      AND coalesce((SELECT bool_and(g.filled) FROM consumer_groups g
                    WHERE g.app_id = j.app_id AND g.retire_time IS NULL AND g.workload IN ('', j.workload)),
                   b.first_item + b.item_count <= j.acknowledged_item)
    RETURNING b.job_id, b.first_item
""")

# Released is what lies before the first batch that still has its payload.
RELEASE_JOBS = text("""
    UPDATE jobs SET items_released = coalesce(
        (SELECT b.first_item FROM batches b
         WHERE b.job_id = jobs.job_id AND b.first_item >= jobs.items_released AND b.payload IS NOT NULL
         ORDER BY b.first_item LIMIT 1),
        jobs.item_count)
    WHERE job_id = ANY(CAST(:job_ids AS uuid[]))
    RETURNING job_id, items_released = item_count AS whole
""")


async def offer(connection: AsyncConnection, job_ids: Iterable[UUID], batch_ids: Iterable[int]) -> set[int]:
    """Offers batches that have just finished, and those of the jobs that are final now; returns the groups' ids.

    The jobs are locked by this transaction, and their counters and states are those after the change.
    """
    jobs = list(job_ids)
    if not jobs:
        return set()
    values = {"job_ids": jobs, "batch_ids": list(batch_ids)}
    groups = set((await connection.scalars(_OFFER, values)).all())
    return groups | await ready_ends(connection, jobs)


async def ready_ends(connection: AsyncConnection, job_ids: Iterable[UUID]) -> set[int]:
    """Lets the ends of jobs go to those groups that have nothing else of them any more; returns the groups' ids."""
    return set((await connection.scalars(_READY_ENDS, {"job_ids": list(job_ids)})).all())


async def hold_back(connection: AsyncConnection, job_id: UUID, batch_ids: Sequence[int]) -> None:
    """Batches that were finished are computed again: they wait, and the end of their job too."""
    if batch_ids:
        await connection.execute(_HOLD_BACK, {"job_id": job_id, "batch_ids": list(batch_ids)})


async def offer_halves(connection: AsyncConnection, halves: Sequence[tuple[int, int]]) -> None:
    """Offers the second half of a batch to the groups that wait for the first, by their ids."""
    if halves:
        values = {"firsts": [first for first, _ in halves], "seconds": [second for _, second in halves]}
        await connection.execute(_OFFER_HALVES, values)


async def withdraw(connection: AsyncConnection, job_id: UUID, batch_id: int) -> None:
    """A batch that was finished runs again with another outcome to come, which will be offered like a first one."""
    await connection.execute(_WITHDRAW, {"job_id": job_id, "batch_id": batch_id})
    await connection.execute(_WILL_END_ANEW, {"job_id": job_id})


async def release(connection: AsyncConnection, batch_ids: Sequence[int]) -> list[records.Released]:
    """Releases those of the finished batches that nobody waits for any more: every group has acknowledged them, or
    there is none and they lie before the reader's cursor. Their jobs are locked by this transaction."""
    if not batch_ids:
        return []
    items: dict[UUID, list[int]] = {}
    for row in (await connection.execute(_RELEASE, {"batch_ids": list(batch_ids)})).all():
        items.setdefault(row.job_id, []).append(row.first_item)
    if not items:
        return []
    rows = (await connection.execute(RELEASE_JOBS, {"job_ids": list(items)})).all()
    return [records.Released(row.job_id, tuple(items[row.job_id]), row.whole) for row in rows]
