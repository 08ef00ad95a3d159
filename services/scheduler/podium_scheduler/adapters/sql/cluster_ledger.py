"""The one row that all replicas share."""

from __future__ import annotations

from sqlalchemy import select, update

from podium_scheduler.adapters.sql import schema
from podium_scheduler.adapters.sql.database import Database, ledger_call


class ClusterLedger:
    """Reads and writes the cluster row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def redis_epoch(self) -> str:
        """Name of the Redis life that the ledger has filled; '' before the first."""
        async with self._database.peek() as connection:
            return str(await connection.scalar(select(schema.cluster.c.redis_epoch)) or "")

    @ledger_call
    async def set_redis_epoch(self, epoch: str) -> None:
        """Records that the ledger has been reconciled with that life."""
        async with self._database.transaction() as connection:
            await connection.execute(update(schema.cluster).values(redis_epoch=epoch))
