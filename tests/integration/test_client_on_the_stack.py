"""The SDK and the command on the real stack: exact results, and a killed run that is taken up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np

from podium_client import AsyncClient, Job, JobState
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack

STEP_S = 60.0


def hashes(texts: list[str], dimension: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return hash_vectors([text.encode() for text in texts], dimension)


async def test_twenty_thousand_texts_come_back_bit_exact_and_in_order(tmp_path: Path) -> None:
    texts = [f"text {n} " + "word " * (n % 11) for n in range(20_000)]
    async with (
        stack.running(tmp_path, workers=2) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
    ):
        async with asyncio.timeout(STEP_S):
            result = await client.embed_texts(texts, workload="hash-1024")
        assert [job.results_released async for job in client.jobs()] == [True] * len(result.jobs)
    assert result.ok.all()
    np.testing.assert_array_equal(result.vectors, hashes(texts, 1024))


async def finished_jobs(client: AsyncClient, count: int) -> list[Job]:
    """Wait until `count` jobs are completed."""
    async with asyncio.timeout(STEP_S):
        while True:
            jobs = [job async for job in client.jobs(states=[JobState.COMPLETED])]
            if len(jobs) >= count:
                return jobs
            await asyncio.sleep(0.05)


async def test_a_killed_command_is_taken_up_without_computing_again(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(2_500)]
    out = tmp_path / "out.npy"
    arguments = ("submit", "-", "-w", "hash-384", "-o", str(out), "--items-per-job", "1000")
    async with (
        stack.running(tmp_path) as running,
        AsyncClient(running.gateway.address, stack.APP_TOKEN) as client,
    ):
        environment = {**os.environ, "PODIUM_ADDRESS": running.gateway.address, "PODIUM_TOKEN": stack.APP_TOKEN}

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "podium_cli", *arguments, env=environment, stdin=asyncio.subprocess.PIPE
            )

        killed = await start()
        assert killed.stdin is not None
        killed.stdin.write("".join(text + "\n" for text in texts[:2_100]).encode())
        before = await finished_jobs(client, 2)
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        assert not out.exists()

        again = await start()
        async with asyncio.timeout(STEP_S):
            await again.communicate("".join(text + "\n" for text in texts).encode())
        assert again.returncode == 0
        after = await finished_jobs(client, 3)
        assert {job.job_id for job in before} < {job.job_id for job in after}
        assert len(after) == 3
        assert all(job.results_released for job in after)
    np.testing.assert_array_equal(np.load(out), hashes(texts, 384))
