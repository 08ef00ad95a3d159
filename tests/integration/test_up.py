"""`podium up` as a person runs it: a real command with real children, stopped, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from podium_client import AsyncClient, JobState
from podium_embedded import EmbeddedPostgres, EmbeddedRedis

READY_S = 90.0
STOP_S = 60.0
TEXTS = [f"text number {number}" for number in range(300)]

pytestmark = pytest.mark.timeout(300)


@dataclass(slots=True)
class Up:
    """A running `podium up`."""

    process: asyncio.subprocess.Process
    facts: dict[str, Any]
    data_dir: Path

    @property
    def family(self) -> list[psutil.Process]:
        """All its descendants."""
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def connection(self) -> dict[str, str]:
        """What it tells local clients."""
        found: dict[str, str] = json.loads((self.data_dir / "connection.json").read_text())
        return found

    def client(self) -> AsyncClient:
        """A client of it."""
        return AsyncClient(self.connection["address"], self.connection["token"])

    async def end(self, number: signal.Signals) -> int:
        """Sends the signal to the command alone and waits for its end."""
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


async def spawn(data_dir: Path, *arguments: str) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PODIUM_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "podium_cli", "up", "--data-dir", str(data_dir), "--json", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def up(data_dir: Path, *arguments: str) -> AsyncIterator[Up]:
    """A ready stack, ended afterwards if the test has not."""
    process = await spawn(data_dir, *arguments)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        if not line:
            raise AssertionError((await process.stderr.read()).decode())
        yield Up(process, json.loads(line), data_dir)
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.communicate(), STOP_S)


async def gone(processes: list[psutil.Process]) -> None:
    """Returns when all are gone; a dead one that the machine's init has not noticed yet counts as gone."""
    async with asyncio.timeout(STOP_S):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    with contextlib.suppress(psutil.TimeoutExpired):
                        await asyncio.to_thread(process.wait, 0.1)


async def said(process: asyncio.subprocess.Process, words: str) -> None:
    """Reads the command's messages until one has these words."""
    assert process.stderr is not None
    async with asyncio.timeout(READY_S):
        while words not in (line := (await process.stderr.readline()).decode()):
            assert line, f"ended without saying {words!r}"


async def test_two_stacks_serve_side_by_side_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with up(tmp_path / "a", "--workers", "2") as first, up(tmp_path / "b") as second:
        assert first.facts["address"] != second.facts["address"]
        assert len(first.facts["workers"]) == 2
        assert stat.S_IMODE((first.data_dir / "connection.json").stat().st_mode) == 0o600
        for stack in (first, second):
            async with stack.client() as client:
                result = await client.embed_texts(TEXTS, workload="hash-384")
            assert result.shape == (len(TEXTS), 384)
        intruder = await spawn(tmp_path / "a")
        _, message = await asyncio.wait_for(intruder.communicate(), READY_S)
        assert intruder.returncode == 6
        assert f"in use by another process (pid {first.process.pid})" in message.decode()
        families = first.family + second.family
        assert len(families) >= 2 * 5
        assert await first.end(signal.SIGINT) == 0
        assert await second.end(signal.SIGTERM) == 0
        await gone(families)
        assert not (first.data_dir / "connection.json").exists()


async def test_jobs_and_results_survive_kill_9_of_the_command(tmp_path: Path) -> None:
    async with up(tmp_path) as stack:
        async with stack.client() as client:
            before = await client.embed_texts(TEXTS, workload="hash-384", release=False)
        family = stack.family
        await stack.end(signal.SIGKILL)
        # Started before the old family has ended: the start has to cope.
        async with up(tmp_path) as again:
            await gone(family)
            async with again.client() as client:
                job = await client.job(before.jobs[0])
                assert job.state is JobState.COMPLETED
                after = await client.embed_texts(TEXTS, workload="hash-384")
                assert after.jobs == before.jobs
                assert after.vectors.tobytes() == before.vectors.tobytes()


async def test_a_killed_service_comes_back_and_work_goes_on(tmp_path: Path) -> None:
    async with up(tmp_path) as stack:
        address = stack.facts["address"]
        for name, pid in (
            ("worker-1", stack.facts["workers"][0]["pid"]),
            ("scheduler", stack.facts["scheduler"]["pid"]),
            ("gateway", stack.facts["gateway"]["pid"]),
        ):
            os.kill(pid, signal.SIGKILL)
            await said(stack.process, f"{name} is back")
        assert stack.connection["address"] == address
        async with stack.client() as client:
            result = await client.embed_texts(TEXTS, workload="hash-384")
        assert result.ok.all()


async def drain_the_worker(stack: Up) -> None:
    """`podium workers drain` of the only worker."""

    async def podium(*arguments: str) -> bytes:
        settings = {f"PODIUM_{key.upper()}": value for key, value in stack.connection.items()}
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "podium_cli", "workers", *arguments,
            env=os.environ | settings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed, errors = await asyncio.wait_for(command.communicate(), READY_S)
        assert command.returncode == 0, errors.decode()
        return printed

    (worker,) = [json.loads(line) for line in (await podium("--json")).splitlines()]
    assert b"drains" in await podium("drain", worker["worker_id"])


async def test_a_drained_worker_stays_away_and_others_come_back(tmp_path: Path) -> None:
    async with up(tmp_path) as stack:
        await drain_the_worker(stack)
        await said(stack.process, "worker-1 was told to leave and has left")
        # Longer than a restart takes: another service is brought back meanwhile.
        os.kill(stack.facts["gateway"]["pid"], signal.SIGKILL)
        await said(stack.process, "gateway is back")
        assert not [p for p in stack.family if "podium_worker" in " ".join(p.cmdline())]


async def test_your_own_servers_are_used_and_left_running(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "yours") as postgres, EmbeddedRedis(tmp_path / "yours") as redis:
        async with up(tmp_path / "up", "--postgres-url", postgres.url, "--redis-url", redis.url) as stack:
            assert stack.facts["postgres"] == stack.facts["redis"] == "yours"
            async with stack.client() as client:
                result = await client.embed_texts(TEXTS, workload="hash-384")
            assert result.ok.all()
            assert not {"postgres", "redis-server"} & {process.name() for process in stack.family}
            assert await stack.end(signal.SIGINT) == 0
        assert postgres.pid is not None and psutil.pid_exists(postgres.pid)
        assert redis.pid is not None and psutil.pid_exists(redis.pid)


async def test_a_bad_registry_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text("workloads: [1, 2]\n")
    process = await spawn(tmp_path / "data", "--registry", str(registry))
    _, message = await asyncio.wait_for(process.communicate(), READY_S)
    assert process.returncode == 70
    assert "registry.yaml" in message.decode()
    async with up(tmp_path / "data"):
        pass
