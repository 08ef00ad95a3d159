"""Pods on this machine, rented when there is work and given back when there is none: the whole system, really."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.support import local_fleet
from tests.support.connect_proxy import ConnectProxy

pytestmark = pytest.mark.timeout(300)


async def test_a_pod_comes_with_work_and_goes_when_it_is_idle_and_another_comes(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path, local_fleet.SLOWLY) as fleet:
        assert await fleet.pods() == []
        first = await fleet.embed(2_000)
        (pod,) = await fleet.until(lambda pods: local_fleet.states(pods) == ["DESTROYED"])
        assert pod["reason"] == "IDLE" and pod["ready_time"] is not None and pod["worker_id"] is not None
        second = await fleet.embed(2_000)
        pods = await fleet.until(lambda pods: local_fleet.states(pods) == ["DESTROYED"] * 2)
        assert pods[1]["worker_id"] != pod["worker_id"]
        assert fleet.workers() == []
        # At $3.60 an hour, a GPU-second is a tenth of a cent; each job answers for its own pod.
        for job, pod in zip((first, second), pods, strict=True):
            cost = await fleet.cost(job)
            life_s = (pod["end_time"] - pod["call_time"]).total_seconds()
            assert 0 < cost.gpu_seconds < life_s
            assert cost.cost_usd == pytest.approx(cost.gpu_seconds / 1000, rel=0.01)


AFAR = "scheduler.tailnet:50052"


async def test_a_pod_joins_over_tls_through_the_proxy_of_a_tailnet(tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    own = authority.issue_cert("scheduler.tailnet", "127.0.0.1")
    scheduler = {
        "tls_cert_pem": own.cert_chain_pems[0].bytes().decode(),
        "tls_key_pem": own.private_key_pem.bytes().decode(),
    }
    async with ConnectProxy() as proxy:
        more = f"""
scheduler_address: {AFAR}
tls: {{ca: {ca}}}
environment: {{grpc_proxy: "{proxy.url}"}}
"""
        trust = {"tls_ca_pem": ca.read_text()}
        async with local_fleet.from_zero(tmp_path, more, scheduler=scheduler, gateway=trust) as fleet:
            # Nobody but the proxy knows that name, and a worker that does not trust the certificate does not join.
            proxy.ways[AFAR] = fleet.running.scheduler.address
            await fleet.embed(100)
            (pod,) = await fleet.pods()
            assert pod["registered_time"] is not None
        assert set(proxy.asked) == {AFAR}
