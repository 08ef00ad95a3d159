"""Pods on this machine, rented when there is work and given back when there is none: the whole system, really."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import local_fleet

pytestmark = pytest.mark.timeout(300)


async def test_a_pod_comes_with_work_and_goes_when_it_is_idle_and_another_comes(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path, local_fleet.SLOWLY) as fleet:
        assert await fleet.pods() == []
        first = await fleet.embed(4_000)
        (pod,) = await fleet.until(lambda pods: local_fleet.states(pods) == ["DESTROYED"])
        assert pod["reason"] == "IDLE" and pod["ready_time"] is not None and pod["worker_id"] is not None
        second = await fleet.embed(4_000)
        pods = await fleet.until(lambda pods: local_fleet.states(pods) == ["DESTROYED"] * 2)
        assert pods[1]["worker_id"] != pod["worker_id"]
        assert fleet.workers() == []
        # At $3.60 an hour, a GPU-second is a tenth of a cent; each job answers for its own pod.
        for job, pod in zip((first, second), pods, strict=True):
            cost = await fleet.cost(job)
            life_s = (pod["end_time"] - pod["call_time"]).total_seconds()
            assert 0 < cost.gpu_seconds < life_s
            assert cost.cost_usd == pytest.approx(cost.gpu_seconds / 1000, rel=0.01)
