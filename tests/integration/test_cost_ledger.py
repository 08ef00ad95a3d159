"""What jobs and calls had of pods, in a real Postgres: nothing of a bill is lost between the jobs and the rest."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from podium_scheduler.adapters.sql import cost_ledger, database, pod_ledger
from podium_scheduler.app import job_costs, records
from podium_scheduler.domain.pods import Move, Sighting, State, name_of
from tests.support import shared_postgres

HOUR = timedelta(hours=1)


@pytest.fixture
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        yield made
        await made.close()


async def an_hour_ago(pool: database.Database) -> uuid.UUID:
    """A pod that has cost $3.60 an hour since then."""
    ledger, pod_id = pod_ledger.PodLedger(pool, HOUR), uuid.uuid4()
    name = name_of("test", pod_id)
    await ledger.intend([records.NewPod(pod_id, name, "imaginary", "L4", 1, Decimal("3.60"))])
    await ledger.move([Move(pod_id, State.INTENDED, State.CREATING, join_token_sha256=b"s" * 32)])
    await ledger.move([Move(pod_id, State.CREATING, State.STARTING, sighting=Sighting(f"im-{name}", name))])
    async with pool.transaction() as connection:
        values = {"pod_id": pod_id}
        await connection.execute(
            text("UPDATE pod_prices SET start_time = now() - INTERVAL '1 hour' WHERE pod_id = :pod_id"), values
        )
    return pod_id


async def test_jobs_and_the_unattributed_are_the_bill_of_pods_that_serve_calls(pool: database.Database) -> None:
    both, calls_only = [await an_hour_ago(pool) for _ in range(2)]
    jobs = [uuid.uuid4(), uuid.uuid4()]
    ledger = cost_ledger.CostLedger(pool)
    # Of two rounds, to be added up.
    for _ in range(2):
        await ledger.record([
            records.PodUse(both, "minilm", 300.0, jobs[0]),
            records.PodUse(both, "minilm", 600.0, jobs[1]),
            records.PodUse(both, "minilm", 250.0, call=True),
            records.PodUse(both, "minilm", 200.0, call=True),
            records.PodUse(calls_only, "minilm", 1500.0, call=True),
        ])  # fmt: skip
    now = datetime.now(UTC)
    found = job_costs.JobCosts(ledger)
    day = await found.since(now - 2 * HOUR, now)
    assert day.bill.micro_usd == pytest.approx(7_200_000, abs=100_000)
    costs = [(await found.of_job(job, now)).micro_usd for job in jobs]
    assert sum(costs) + day.unattributed_micro_usd == pytest.approx(day.bill.micro_usd, abs=5)
    # Nobody waited and nothing was loaded: each second that a job had is a tenth of a cent.
    assert costs == pytest.approx([600_000, 1_200_000], rel=1e-3)
