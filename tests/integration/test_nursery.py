"""Forked services are processes of their own, and none outlives whoever it was forked for."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support import nursery, shared_postgres

STEP_S = 60.0


async def test_a_child_has_what_it_is_given_and_its_end_is_told(tmp_path: Path) -> None:
    mine, log = nursery.Nursery("podium_scheduler"), tmp_path / "log"
    # It lacks its settings, and says so.
    child = await asyncio.to_thread(mine.fork, {"PODIUM_LOG_LEVEL": "nonsense"}, log)
    async with asyncio.timeout(STEP_S):
        assert await child.wait() != 0
    assert child.returncode is not None and child.returncode > 0
    assert "log_level" in log.read_text().lower()
    with pytest.raises(ProcessLookupError):
        child.terminate()
    mine.close()


async def test_a_killed_child_ends_with_its_signal_and_the_others_with_the_nursery(tmp_path: Path) -> None:
    mine = nursery.Nursery("podium_gateway")
    # Nobody is there: they try again and again.
    settings = dict(os.environ) | {
        "PODIUM_SCHEDULER_ADDRESS": "127.0.0.1:1", "PODIUM_REDIS_URL": "redis://127.0.0.1:1",
        "PODIUM_INTERNAL_TOKEN": "t",
    }  # fmt: skip
    children = [await asyncio.to_thread(mine.fork, settings, tmp_path / f"log-{n}") for n in range(2)]
    assert [child.returncode for child in children] == [None, None]
    children[0].kill()
    async with asyncio.timeout(STEP_S):
        assert await children[0].wait() == -signal.SIGKILL
        left = psutil.Process(children[1].pid)
        # One that stands still hears of nothing.
        children[1].send_signal(signal.SIGSTOP)
        await asyncio.to_thread(mine.close)
        await asyncio.to_thread(left.wait, STEP_S)
        assert await children[1].wait() == -signal.SIGKILL


async def test_who_gives_up_on_the_shared_server_does_not_end_it_for_the_others(tmp_path: Path) -> None:
    shared = shared_postgres.SharedPostgres(tmp_path)
    try:
        async with asyncio.timeout(STEP_S):
            impatient = asyncio.create_task(shared.lend().__aenter__())
            await asyncio.sleep(0)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            async with shared.lend() as lent:
                await (await asyncpg.connect(lent.url.replace("+asyncpg", ""))).close()
    finally:
        await asyncio.to_thread(shared.close)


async def test_lent_databases_are_migrated_and_share_nothing() -> None:
    async with shared_postgres.migrated() as one, shared_postgres.migrated() as other:
        assert one.url != other.url
        connections = [await asyncpg.connect(lent.url.replace("+asyncpg", "")) for lent in (one, other)]
        await connections[0].execute("INSERT INTO apps (app_id) VALUES ('mine')")
        found = [await connection.fetchval("SELECT count(*) FROM apps") for connection in connections]
        assert found == [1, 0]
        for connection in connections:
            await connection.close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(one.url.replace("+asyncpg", ""))
