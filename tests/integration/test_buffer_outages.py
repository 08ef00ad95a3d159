"""The buffer when Redis says what it says during failovers, restarts and full disks, and under many callers."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from podium_runtime import errors
from podium_scheduler.adapters.redis import buffer as adapter
from podium_scheduler.adapters.redis import wakeups
from podium_scheduler.adapters.sql import leadership


async def test_more_callers_than_connections_wait_for_their_turn(buffer: adapter.Buffer) -> None:
    await asyncio.gather(*(buffer.release_results(uuid.uuid4(), 1) for _ in range(200)))


async def test_a_replica_that_cannot_write_yet_is_waited_out(buffer: adapter.Buffer) -> None:
    client: Any = buffer.client
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    calls = [
        buffer.push("hash-384", [1]),
        buffer.admit_results([(uuid.uuid4(), 0, 1, [b"chunk"])]),
        buffer.life("epoch"),
        buffer.ensure_groups(["hash-384"]),
    ]
    for call in calls:
        with pytest.raises(errors.Unavailable):
            await call
    await client.execute_command("REPLICAOF", "NO", "ONE")
    await buffer.push("hash-384", [1])


async def test_scripts_that_were_flushed_come_back(buffer: adapter.Buffer) -> None:
    job_id = uuid.uuid4()
    await buffer.admit_results([(job_id, 0, 1, [b"chunk"])])
    await buffer.client.script_flush()
    await buffer.admit_results([(job_id, 1, 1, [b"chunk"])])
    await buffer.client.script_flush()
    await buffer.release_results(job_id, 1)
    assert await buffer.result_items(job_id) == {1}


async def test_a_silent_redis_keeps_nobody_who_only_wakes_others() -> None:
    """The leader says that it leads between two heartbeats; another would take its lead from it meanwhile."""

    left = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        silent = adapter.Buffer(f"redis://127.0.0.1:{port}", prefix="test", consumer="me", result_ttl_s=60)
        began = time.monotonic()
        await wakeups.Wakeups(silent, "test", "me").replicas("leads")
        waited = time.monotonic() - began
        await silent.close()
        await left.wait()
    assert waited < leadership.LEASE.total_seconds()
