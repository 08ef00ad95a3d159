"""A pod's worker killed by hand: another pod comes, and the job completes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support import local_fleet

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


async def test_a_pod_that_is_killed_by_hand_is_replaced_and_its_job_completes(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path, local_fleet.SLOWLY) as fleet:
        embedding = asyncio.create_task(fleet.embed(8_000))
        pod = next(
            p for p in await fleet.until(lambda pods: "READY" in local_fleet.states(pods)) if p["state"] == "READY"
        )
        (worker,) = [one for one in fleet.workers() if one.environ()["PODIUM_POD_ID"] == str(pod["pod_id"])]
        worker.kill()
        await embedding
        pods = await fleet.until(lambda pods: local_fleet.states(pods) == ["DESTROYED"] * 2)
        assert [one["reason"] for one in pods] == ["PROVIDER_ERROR", "IDLE"]
        assert pods[0]["pod_id"] == pod["pod_id"]
