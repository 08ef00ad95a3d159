"""What jobs had of pods, and what the pods did in all: what it takes to share their bills.

Each pod has running totals, so that what a job cost is found from its own rows and a few of its pods, however many jobs
the pods have served.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records
from podium_scheduler.domain import costs

# A pod that the ledger has forgotten, or never had, cost nothing that anybody could share.
_ADD_USES = text("""
    INSERT INTO pod_uses (pod_id, job_id, workload, busy_s)
    SELECT u.pod_id, u.job_id, u.workload, u.seconds
    FROM unnest(CAST(:pod_ids AS uuid[]), CAST(:job_ids AS uuid[]), CAST(:workloads AS text[]),
        CAST(:seconds AS double precision[])) AS u(pod_id, job_id, workload, seconds)
    JOIN pods p ON p.pod_id = u.pod_id
    ORDER BY u.pod_id, u.job_id
    ON CONFLICT (pod_id, job_id) DO UPDATE SET busy_s = pod_uses.busy_s + excluded.busy_s
""")
_ADD_WORK = text("""
    INSERT INTO pod_work (pod_id, workload, busy_s, load_s, call_s, last_time)
    SELECT u.pod_id, u.workload, u.busy_s, u.load_s, u.call_s, now()
    FROM unnest(CAST(:pod_ids AS uuid[]), CAST(:workloads AS text[]), CAST(:busy AS double precision[]),
        CAST(:loads AS double precision[]), CAST(:calls AS double precision[]))
        AS u(pod_id, workload, busy_s, load_s, call_s)
    JOIN pods p ON p.pod_id = u.pod_id
    ORDER BY u.pod_id, u.workload
    ON CONFLICT (pod_id, workload) DO UPDATE SET
        busy_s = pod_work.busy_s + excluded.busy_s, load_s = pod_work.load_s + excluded.load_s,
        call_s = pod_work.call_s + excluded.call_s, last_time = excluded.last_time
""")
_OWN = text("""
    SELECT pod_id, workload, busy_s, job_id FROM pod_uses
    WHERE job_id = ANY(CAST(:jobs AS uuid[])) ORDER BY pod_id, job_id
""")
_BILLED = text("""
    SELECT DISTINCT pod_id FROM pod_prices WHERE (end_time IS NULL OR end_time > :start) AND start_time < :end
""")
# From the moment when its worker was there, for loads are a part of what it does.
_PODS = text("""
    SELECT pod_id, greatest(gpu_count, 1) AS gpu_count, coalesce(extract(epoch FROM
        coalesce(drain_time, destroy_time, end_time, now()) - registered_time), 0) AS served_s
    FROM pods WHERE pod_id = ANY(CAST(:pods AS uuid[]))
""")
_WORK = text("""
    SELECT pod_id, workload, busy_s, load_s, call_s FROM pod_work
    WHERE pod_id = ANY(CAST(:pods AS uuid[])) ORDER BY pod_id, workload
""")
_BILLS = text("""
    SELECT s.pod_id, s.start_time, s.end_time, s.price_usd_per_hour, greatest(p.gpu_count, 1)
    FROM pod_prices s JOIN pods p ON p.pod_id = s.pod_id
    WHERE s.pod_id = ANY(CAST(:pods AS uuid[])) ORDER BY s.pod_id, s.start_time
""")
_LAST = text("""
    SELECT w.pod_id, max(w.last_time) AS last_time
    FROM pod_work w JOIN pods p ON p.pod_id = w.pod_id WHERE p.end_time IS NULL GROUP BY w.pod_id
""")


class CostLedger:
    """Uses of pods in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def record(self, uses: Sequence[records.PodUse]) -> None:
        """Adds what batches and loads took. What an unclear commit is followed by counts twice."""
        of_jobs: defaultdict[tuple[UUID, UUID, str], float] = defaultdict(float)
        busy: defaultdict[tuple[UUID, str], float] = defaultdict(float)
        loads: defaultdict[tuple[UUID, str], float] = defaultdict(float)
        calls: defaultdict[tuple[UUID, str], float] = defaultdict(float)
        for use in uses:
            if use.call:
                # No job pays for it: its share of the bill stays unattributed.
                calls[use.pod_id, use.workload] += use.seconds
                busy[use.pod_id, use.workload] += use.seconds
            elif use.job_id is None:
                loads[use.pod_id, use.workload] += use.seconds
            else:
                of_jobs[use.pod_id, use.job_id, use.workload] += use.seconds
                busy[use.pod_id, use.workload] += use.seconds
        keys = sorted(busy.keys() | loads.keys(), key=str)
        async with self._database.transaction() as connection:
            if of_jobs:
                await connection.execute(_ADD_USES, _of_jobs(of_jobs))
            work = {
                "pod_ids": [pod_id for pod_id, _ in keys],
                "workloads": [workload for _, workload in keys],
                "busy": [busy[key] for key in keys],
                "loads": [loads[key] for key in keys],
                "calls": [calls[key] for key in keys],
            }
            await connection.execute(_ADD_WORK, work)

    @ledger_call
    async def of_jobs(
        self, job_ids: Sequence[UUID]
    ) -> tuple[list[records.PodUse], list[records.PodShare], list[costs.Span]]:
        """What some jobs had of which pods, what these did in all, and what they cost."""
        async with self._database.peek() as connection:
            own = [records.PodUse(*row) for row in (await connection.execute(_OWN, {"jobs": list(job_ids)})).all()]
            return own, *(await _shares(connection, sorted({use.pod_id for use in own})))

    @ledger_call
    async def between(self, start: datetime, end: datetime) -> tuple[list[records.PodShare], list[costs.Span]]:
        """What the pods that were billed between two times did in all their lives, and what they cost."""
        async with self._database.peek() as connection:
            pods = list((await connection.scalars(_BILLED, {"start": start, "end": end})).all())
            return await _shares(connection, pods)

    @ledger_call
    async def last_uses(self) -> dict[UUID, datetime]:
        """When each pod whose life is not over last did something."""
        async with self._database.peek() as connection:
            return {row.pod_id: row.last_time for row in (await connection.execute(_LAST)).all()}


async def _shares(connection: AsyncConnection, pods: Sequence[UUID]) -> tuple[list[records.PodShare], list[costs.Span]]:
    if not pods:
        return [], []
    values = {"pods": list(pods)}
    work: defaultdict[UUID, list[records.PodWork]] = defaultdict(list)
    for row in (await connection.execute(_WORK, values)).all():
        work[row.pod_id].append(records.PodWork(row.workload, row.busy_s, row.load_s, row.call_s))
    shares = [
        records.PodShare(row.pod_id, float(row.served_s), row.gpu_count, work[row.pod_id])
        for row in (await connection.execute(_PODS, values)).all()
    ]
    return shares, [costs.Span(*row) for row in (await connection.execute(_BILLS, values)).all()]


def _of_jobs(sums: Mapping[tuple[UUID, UUID, str], float]) -> dict[str, list[Any]]:
    """A job has one workload, so that no row comes twice."""
    return {
        "pod_ids": [pod_id for pod_id, _, _ in sums],
        "job_ids": [job_id for _, job_id, _ in sums],
        "workloads": [workload for _, _, workload in sums],
        "seconds": list(sums.values()),
    }
