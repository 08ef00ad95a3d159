"""Brings the ledger's schema to the newest version. Safe to run from several processes at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from podium_scheduler.adapters.sql.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
# Two migrators must not race; the lock is held by the transaction that migrates.
_LOCK_KEY = 0x706F6469756E


def config(connection: Connection) -> Config:
    """Alembic's configuration over an open connection; no ini file."""
    found = Config()
    found.set_main_option("script_location", str(_MIGRATIONS))
    found.attributes["connection"] = connection
    return found


async def upgrade(url: str, revision: str = "head") -> None:
    """Upgrades to `revision`."""
    await _run(url, lambda connection: command.upgrade(config(connection), revision))


async def downgrade(url: str, revision: str) -> None:
    """Downgrades to `revision`."""
    await _run(url, lambda connection: command.downgrade(config(connection), revision))


async def check(url: str) -> None:
    """Raises alembic.util.CommandError when the migrations and `schema.py` differ."""
    await _run(url, lambda connection: command.check(config(connection)))


async def _run(url: str, step: object) -> None:
    assert callable(step)
    # A migration may take its time, and wait for another one.
    database = Database(url, pool_size=1, limits={}, command_timeout_s=None)
    try:
        async with database.transaction() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            await connection.run_sync(step)
    finally:
        await database.close()


def main(url: str) -> None:
    """`python -m podium_scheduler migrate`."""
    asyncio.run(upgrade(url))
