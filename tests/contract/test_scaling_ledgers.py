"""The simulator's sums of the work are the ledger's: the same jobs in both."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text

from podium_scheduler.adapters.sql import database, scaling_ledger
from podium_scheduler.app import ports
from podium_scheduler.simulation import ledgers, market
from podium_scheduler.simulation.agenda import EPOCH, Agenda
from podium_scheduler.simulation.floor import Job
from podium_scheduler.simulation.traces import Arrival
from tests.support import shared_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW_S = 40_000.0
# (workload, seconds ago, items, of them done, window)
JOBS = [
    ("clip", 10.0, 100, 0, 7200.0), ("clip", 300.0, 50, 20, 7400.0), ("clip", 20.0, 7, 7, 7200.0),
    ("clip", 1000.0, 30, 0, 40_000.0), ("clip", 100.0, 9, 0, 20.0), ("bge", 0.4, 5, 0, None),
    ("bge", 17.0, 6, 1, None), ("bge", 20_000.0, 8, 0, None), ("bge", 30.0, 4, 0, 333.0),
]  # fmt: skip
_INSERT = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
        item_count, batch_count, items_succeeded, feedable, deadline, create_time)
    VALUES (:job_id, 'app', :job_id, '', :workload, 1, 3, '', 'RUNNING', :items, 1, :done, false,
        now() - CAST(:ago AS interval) + CAST(:window AS interval), now() - CAST(:ago AS interval))
""")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[database.Database]:
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=2)
        yield made
        await made.close()


async def _in_postgres(pool: database.Database) -> tuple[ports.ScalingLedger, float]:
    async with pool.transaction() as connection:
        await connection.execute(text("INSERT INTO apps (app_id) VALUES ('app')"))
        for workload, ago, items, done, window in JOBS:
            spans = {"ago": timedelta(seconds=ago), "window": None if window is None else timedelta(seconds=window)}
            await connection.execute(
                _INSERT, {"job_id": uuid.uuid4(), "workload": workload, "items": items, "done": done, **spans}
            )
        begun = await connection.scalar(text("SELECT extract(epoch FROM now())"))
    return scaling_ledger.ScalingLedger(pool), float(begun)


def _in_memory() -> tuple[ports.ScalingLedger, float]:
    agenda = Agenda()
    agenda.now_s = NOW_S
    jobs = [Job(Arrival(NOW_S - ago, items, window, workload), 0, items - done)
            for workload, ago, items, done, window in sorted(JOBS, key=lambda job: -job[1])]  # fmt: skip
    calm = market.Market((), {}, {})
    return ledgers.Scaling(calm, agenda, jobs), EPOCH.timestamp() + NOW_S


async def _told(ledger: ports.ScalingLedger, now: float) -> tuple[object, object]:
    demands = {
        (
            r.workload,
            r.items,
            round(now - r.since.timestamp()),
            None if r.due is None else round(r.due.timestamp() - now),
        )
        for r in await ledger.demands({})
    }
    arrivals = {
        name: (round(lately.items_per_s, 6), None if lately.window_s is None else round(lately.window_s))
        for name, lately in (await ledger.arrivals()).items()
    }
    return demands, arrivals


async def test_work_and_arrivals_are_summed_up_alike(pool: database.Database) -> None:
    real, simulated = await _told(*await _in_postgres(pool)), await _told(*_in_memory())
    assert simulated == real
    assert ("clip", 130, 300, 7100) in real[0], "due at nearly the same time"  # type: ignore[operator]
    assert len(real[0]) == 7, "apart from that, each by itself"  # type: ignore[arg-type]
