"""`podium up` as a person runs it: started beside another, stopped, started on a person's own servers."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest

from podium_embedded import EmbeddedPostgres, EmbeddedRedis
from tests.support import up_command

TEXTS = [f"text number {number}" for number in range(300)]

pytestmark = pytest.mark.timeout(300)


async def test_two_stacks_serve_side_by_side_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with up_command.up(tmp_path / "a", "--workers", "2") as first, up_command.up(tmp_path / "b") as second:
        assert first.facts["address"] != second.facts["address"]
        assert len(first.facts["workers"]) == 2
        assert stat.S_IMODE((first.data_dir / "connection.json").stat().st_mode) == 0o600
        for stack in (first, second):
            async with stack.client() as client:
                result = await client.embed_texts(TEXTS, workload="hash-384")
            assert result.shape == (len(TEXTS), 384)
        intruder = await up_command.spawn(tmp_path / "a")
        _, message = await asyncio.wait_for(intruder.communicate(), up_command.READY_S)
        assert intruder.returncode == 6
        assert f"in use by another process (pid {first.process.pid})" in message.decode()
        families = first.family + second.family
        assert len(families) >= 2 * 5
        assert await first.end(signal.SIGINT) == 0
        assert await second.end(signal.SIGTERM) == 0
        await up_command.gone(families)
        assert not (first.data_dir / "connection.json").exists()


async def test_a_bad_registry_is_one_error_and_leaves_nothing_and_a_drained_worker_stays_away(
    tmp_path: Path,
) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text("workloads: [1, 2]\n")
    process = await up_command.spawn(tmp_path / "data", "--registry", str(registry))
    _, message = await asyncio.wait_for(process.communicate(), up_command.READY_S)
    assert process.returncode == 70
    assert "registry.yaml" in message.decode()
    async with up_command.up(tmp_path / "data") as stack:
        (worker,) = await stack.podium("workers")
        (drained,) = await stack.podium("workers", "drain", worker["worker_id"])
        assert drained["worker_id"] == worker["worker_id"]
        await up_command.said(stack.process, "worker-1 was told to leave and has left")
        # Longer than a restart takes: another service is brought back meanwhile.
        os.kill(stack.facts["gateway"]["pid"], signal.SIGKILL)
        await up_command.said(stack.process, "gateway is back")
        assert not [p for p in stack.family if "podium_worker" in " ".join(p.cmdline())]


async def test_your_own_servers_are_used_and_left_running(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "yours") as postgres, EmbeddedRedis(tmp_path / "yours") as redis:
        async with up_command.up(tmp_path / "up", "--postgres-url", postgres.url, "--redis-url", redis.url) as stack:
            assert stack.facts["postgres"] == stack.facts["redis"] == "yours"
            async with stack.client() as client:
                result = await client.embed_texts(TEXTS, workload="hash-384")
            assert result.ok.all()
            assert not {"postgres", "redis-server"} & {process.name() for process in stack.family}
            assert await stack.end(signal.SIGINT) == 0
        assert postgres.pid is not None and psutil.pid_exists(postgres.pid)
        assert redis.pid is not None and psutil.pid_exists(redis.pid)
