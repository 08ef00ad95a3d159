"""Ledgers that benchmarks fill by SQL and call in-process with the scheduler's own statements."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import asyncpg
from sqlalchemy import text

from podium_scheduler.adapters.sql import archive_ledger, batch_ledger, database, job_ledger, session_ledger
from podium_scheduler.app import records

APP = "default"
WORKLOAD = "hash-384"
GROUP = 8
"""Batches of one claim."""
JOB_BATCHES = 64
_WEEK = timedelta(days=7)

_BYTES = text("SELECT pg_total_relation_size(CAST(:name AS regclass)), pg_indexes_size(CAST(:name AS regclass))")


@dataclass
class Ledger:
    """One database, and a session to claim for. `payload_bytes`: of each batch that is admitted."""

    url: str
    payload_bytes: int = 4_096
    pool: database.Database = field(init=False)
    session_id: UUID = field(default_factory=uuid.uuid4)

    def __post_init__(self) -> None:
        self.pool = database.Database(self.url, pool_size=2)
        self.jobs = job_ledger.JobLedger(self.pool)
        self.batches = batch_ledger.BatchLedger(self.pool, _WEEK)
        self.archive = archive_ledger.ArchiveLedger(self.pool)

    async def open(self) -> None:
        """Opens the session."""
        await self.open_session(self.session_id)

    async def open_session(self, session_id: UUID) -> None:
        """Opens another one, of a worker of its own."""
        session = records.NewSession(session_id, uuid.uuid4(), "bench", "bench", "0", "", b"")
        await session_ledger.SessionLedger(self.pool, _WEEK).open(session, [])

    async def admit(self, app: str = APP, batches: int = JOB_BATCHES) -> UUID:
        """A new job of so many batches that wait."""
        payload = b"x" * self.payload_bytes
        new_batches = tuple(records.NewBatch(n, 1, payload, 1) for n in range(batches))
        new = records.NewJob(app, uuid.uuid4(), b"d", WORKLOAD, 1, 3, {}, b"", None, "", new_batches)
        job, _ = await self.jobs.admit(uuid.uuid4(), new)
        return job.job_id

    async def release(self, job_id: UUID, app: str = APP, batches: int = JOB_BATCHES) -> None:
        """Drops what was admitted so."""
        await self.jobs.release(app, job_id, batches, batches)

    async def claim(self, batch_ids: Sequence[int]) -> list[records.Leased]:
        """Leases batches that are QUEUED."""
        claims = [records.Claim(batch_id, uuid.uuid4().bytes, self.session_id) for batch_id in batch_ids]
        return await self.batches.claim(claims)

    async def complete(self, leased: Sequence[records.Leased]) -> set[int]:
        """Finishes them; their ids."""
        done = [records.Completion(b.batch_id, b.lease_token, b.job_id, b.first_item, 1, 0, 0) for b in leased]
        return await self.batches.complete(done)

    async def megabytes(self) -> dict[str, float]:
        """Sizes of the tables with their indexes, and of the indexes alone."""
        found: dict[str, float] = {}
        async with self.pool.transaction() as connection:
            for name in ("batches", "jobs"):
                whole, indexes = (await connection.execute(_BYTES, {"name": name})).one()
                found |= {f"{name} MB": whole / 1e6, f"indexes of {name} MB": indexes / 1e6}
        return found


async def copy(source: Ledger, name: str) -> str:
    """URL of a copy of a whole ledger, on the same Postgres. Closes the source's connections for it."""
    await source.pool.close()
    server, original = source.url.rsplit("/", 1)
    await sql(f"{server}/postgres", f'CREATE DATABASE "{name}" TEMPLATE "{original}"')
    return f"{server}/{name}"


async def sql(url: str, statement: str) -> None:
    """Runs one statement, which may take minutes."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), command_timeout=600)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
