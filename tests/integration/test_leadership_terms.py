"""Leadership on a real Postgres: one leader at a time, a term that grows, and no leader who has been superseded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from podium_scheduler.adapters.sql.leadership import Leadership
from tests.support import stack

STEP_S = 10.0


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with stack.servers(tmp_path) as servers:
        yield servers.postgres.url


async def test_the_lead_passes_on_with_a_greater_term(url: str) -> None:
    first, second = Leadership(url, "first"), Leadership(url, "second")
    try:
        assert await first.attempt()
        assert not await second.attempt()
        assert await first.confirm()
        before = first.term
        await first.resign()
        async with asyncio.timeout(STEP_S):
            # Postgres lets go of the lock when it has seen the connection end, a moment later.
            while not await second.attempt():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert second.term > before
        assert not await first.confirm()
    finally:
        await first.resign()
        await second.resign()


async def test_a_leader_that_finds_another_term_steps_down(url: str) -> None:
    """It slept through its own deposition, while its connection lived on."""
    slept = Leadership(url, "slept")
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        assert await slept.attempt()
        await connection.execute("UPDATE cluster SET leader_term = leader_term + 1, leader_replica_id = 'another'")
        assert not await slept.confirm()
        assert not slept.leads
    finally:
        await slept.resign()
        await connection.close()
