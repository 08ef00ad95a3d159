"""`podium up` and its services killed: jobs and results survive, and what was killed comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from podium_client import JobState
from tests.support import up_command

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TEXTS = [f"text number {number}" for number in range(300)]


async def test_jobs_and_results_survive_kill_9_of_the_command(tmp_path: Path) -> None:
    async with up_command.up(tmp_path) as stack:
        async with stack.client() as client:
            before = await client.embed_texts(TEXTS, workload="hash-384", release=False)
        family = stack.family
        await stack.end(signal.SIGKILL)
        # Started before the old family has ended: the start has to cope.
        async with up_command.up(tmp_path) as again:
            await up_command.gone(family)
            async with again.client() as client:
                job = await client.job(before.jobs[0])
                assert job.state is JobState.COMPLETED
                after = await client.embed_texts(TEXTS, workload="hash-384")
                assert after.jobs == before.jobs
                assert after.vectors.tobytes() == before.vectors.tobytes()


async def test_a_killed_service_comes_back_and_work_goes_on(tmp_path: Path) -> None:
    async with up_command.up(tmp_path) as stack:
        address = stack.facts["address"]
        for name, pid in (
            ("worker-1", stack.facts["workers"][0]["pid"]),
            ("scheduler", stack.facts["scheduler"]["pid"]),
            ("gateway", stack.facts["gateway"]["pid"]),
        ):
            os.kill(pid, signal.SIGKILL)
            await up_command.said(stack.process, f"{name} is back")
        assert stack.connection["address"] == address
        async with stack.client() as client:
            result = await client.embed_texts(TEXTS, workload="hash-384")
        assert result.ok.all()
