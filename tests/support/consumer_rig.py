"""The outbox as the tests drive it: one app's view of a ledger in Postgres that the tests of a module share."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from podium_scheduler.adapters.sql import (
    batch_ledger,
    consumer_ledger,
    database,
    job_ledger,
    requeue_ledger,
    session_ledger,
)
from podium_scheduler.app import records
from podium_scheduler.domain import batches as batch_states
from tests.support import shared_postgres

WEEK = timedelta(days=7)
_names = itertools.count()

# What `ready` promises, said from the batches and jobs themselves. What has expired is put aside when it is found.
_WRONGLY_READY = """
    SELECT count(*) FROM deliveries d
    JOIN consumer_groups g ON g.group_id = d.group_id AND g.retire_time IS NULL AND g.app_id = :app
    JOIN jobs j ON j.job_id = d.job_id LEFT JOIN batches b ON b.batch_id = d.batch_id
    WHERE NOT j.results_expired AND d.ready <> CASE WHEN d.batch_id IS NOT NULL
        THEN b.state IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
        ELSE j.state IN ('COMPLETED', 'CANCELLED', 'EXPIRED') AND NOT EXISTS (
            SELECT FROM deliveries o WHERE o.job_id = d.job_id AND o.group_id = d.group_id AND o.batch_id IS NOT NULL)
        END
"""


@asynccontextmanager
async def serving() -> AsyncIterator[database.Database]:
    """A database of its own with an empty ledger."""
    async with shared_postgres.migrated() as postgres:
        made = database.Database(postgres.url, pool_size=6)
        yield made
        await made.close()


async def new_app(pool: database.Database) -> Ledger:
    """A ledger's view of an app that is new."""
    app = f"app-{next(_names)}"
    jobs = job_ledger.JobLedger(pool)
    await jobs.put_app(app)
    batches, sessions = batch_ledger.BatchLedger(pool, WEEK), session_ledger.SessionLedger(pool, WEEK)
    return Ledger(app, pool, jobs, batches, sessions, consumer_ledger.ConsumerLedger(pool, WEEK))


@dataclass
class Ledger:
    """One app's view of a ledger that the tests share."""

    app: str
    database: database.Database
    jobs: job_ledger.JobLedger
    batches: batch_ledger.BatchLedger
    sessions: session_ledger.SessionLedger
    consumers: consumer_ledger.ConsumerLedger

    async def admit(self, count: int, workload: str = "hash-384") -> UUID:
        new = records.NewJob(
            self.app, uuid.uuid4(), b"digest", workload, 1, 3, {}, b"", None, "",
            tuple(records.NewBatch(4 * n, 4, b"payload", 1) for n in range(count)),
        )  # fmt: skip
        return (await self.jobs.admit(uuid.uuid4(), new))[0].job_id

    async def lease(self, job_id: UUID, count: int) -> list[records.Leased]:
        """Feeds and claims the next batches of a job."""
        session = records.NewSession(uuid.uuid4(), uuid.uuid4(), "test", "test", "0", "", b"")
        await self.sessions.open(session, [])
        fed = (await self.batches.feed({job_id: count}))[job_id]
        claims = [records.Claim(batch_id, uuid.uuid4().bytes, session.session_id) for batch_id in fed]
        return sorted(await self.batches.claim(claims), key=lambda b: b.first_item)

    async def complete(self, leased: Iterable[records.Leased]) -> None:
        await self.batches.complete(
            [records.Completion(b.batch_id, b.lease_token, b.job_id, b.first_item, b.item_count, 0, 0) for b in leased]
        )

    async def done(self, count: int, workload: str = "hash-384") -> UUID:
        """A completed job of so many batches of four items."""
        job_id = await self.admit(count, workload)
        await self.complete(await self.lease(job_id, count))
        return job_id

    async def fail(self, leased: Sequence[records.Leased], outcome: batch_states.Outcome) -> None:
        await self.batches.fail([records.Failure(b.batch_id, b.lease_token, b.job_id, outcome, "") for b in leased])

    async def consumer(self, group: str = "g", workload: str = "") -> UUID:
        """A consumer of a group that is filled."""
        opened = await self.consumers.open(uuid.uuid4(), self.app, group, workload)
        while not await self.consumers.fill(opened.group_id):
            continue
        return opened.consumer_id

    async def take(
        self, consumer: UUID, limit: int = 100, held: Sequence[int] = (), returned: Sequence[int] = ()
    ) -> list[records.Delivery]:
        advance = await self.consumers.advance(consumer, returned, held, limit)
        assert advance is not None
        return list(advance.deliveries)

    async def ack(self, consumer: UUID, deliveries: Iterable[records.Delivery]) -> list[records.Released]:
        return await self.consumers.acknowledge(consumer, [d.delivery_id for d in deliveries])

    async def drain(self, consumer: UUID) -> list[records.Delivery]:
        """Takes and acknowledges until nothing comes."""
        got: list[records.Delivery] = []
        while found := await self.take(consumer):
            await self.ack(consumer, found)
            got += found
        return got

    async def failed(self) -> tuple[UUID, int]:
        """A completed job of two batches, of which the first was given up; and that batch's id."""
        job_id = await self.admit(2)
        first, second = await self.lease(job_id, 2)
        await self.fail([first], batch_states.GiveUp(batch_states.FailureReason.OUT_OF_MEMORY))
        await self.complete([second])
        return job_id, first.batch_id

    async def requeue(self, batch_id: int) -> str | None:
        """Why it is refused."""
        done = await requeue_ledger.RequeueLedger(self.database, WEEK).requeue(batch_id)
        assert done is not None
        return done.refused

    async def states(self, job_id: UUID) -> list[str]:
        return [b.state.value for b in await self.jobs.list_batches(job_id, 0, 1000)]

    async def job(self, job_id: UUID) -> records.Job:
        found = await self.jobs.job(self.app, job_id)
        assert found is not None
        return found

    async def run(self, sql: str, **values: object) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(text(sql), values)

    async def count(self, sql: str) -> int:
        async with self.database.transaction() as connection:
            return int(await connection.scalar(text(sql), {"app": self.app}))

    async def batch_ids(self, job_id: UUID) -> dict[int, int]:
        """first_item to batch id of what is COMPLETED."""
        return await self.batches.completed_of(job_id)

    async def wrongly_ready(self) -> int:
        """Deliveries whose `ready` is not what their batch or job says."""
        return await self.count(_WRONGLY_READY)


def told(deliveries: Iterable[records.Delivery]) -> list[tuple[int, str] | str]:
    """(first_item, state) of batches, the state of jobs."""
    return [(d.batch.first_item, d.batch.state.value) if d.batch else d.job.state.value for d in deliveries if d.batch or d.job]  # type: ignore[union-attr]  # fmt: skip  # noqa: E501
