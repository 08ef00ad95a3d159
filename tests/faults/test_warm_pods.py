"""Pods without work: the operator's minimum, a workload's warm minimum, and what an operator asks for by hand."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from podium.operator.v1 import operator_pb2, operator_pb2_grpc
from podium_runtime import auth
from tests.support import local_fleet, stack
from tests.support.local_fleet import states

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

OPERATOR = auth.authorization(stack.OPERATOR_TOKEN)
IDLE = timedelta(seconds=2)
"""As local_fleet.PLAN has it."""
RARELY_S = 120
"""Between two looks of the pod keeper that nobody wakes; longer than anything waits here."""


@asynccontextmanager
async def operator(fleet: local_fleet.Fleet) -> AsyncIterator[operator_pb2_grpc.OperatorServiceStub]:
    async with grpc.aio.insecure_channel(fleet.running.scheduler.address) as channel:
        yield operator_pb2_grpc.OperatorServiceStub(channel)


async def test_the_least_number_of_pods_comes_without_any_job_and_is_made_up_when_one_dies(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path, "limits: {min_pods: 1, max_pods: 2}") as fleet, operator(fleet) as stub:
        (first,) = await fleet.until(lambda pods: states(pods) == ["READY"])
        (worker,) = fleet.workers()
        # Idle for longer than any pod may be that nobody asks for.
        (same,) = await fleet.until(lambda pods: datetime.now(UTC) - pods[0]["ready_time"] > 2 * IDLE)
        assert same["state"] == "READY"
        worker.kill()
        pods = await fleet.until(lambda pods: states(pods) == ["DESTROYED", "READY"])
        assert pods[0]["pod_id"] == first["pod_id"]
        no_more = operator_pb2.SetAutoscalingRequest(autoscaling=operator_pb2.Autoscaling(max_pods=2))
        await stub.SetAutoscaling(no_more, metadata=OPERATOR)
        pods = await fleet.until(lambda pods: states(pods) == ["DESTROYED"] * 2)
        assert pods[1]["reason"] == "IDLE"


async def test_a_workload_that_is_to_be_warm_has_its_model_loaded_before_the_first_job(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path, "workloads: {hash-384: {warm_pods: 1}}") as fleet:
        (pod,) = await fleet.until(lambda pods: states(pods) == ["READY"])
        assert pod["workload"] == "hash-384"
        await fleet.embed(100)
        assert [one["pod_id"] for one in await fleet.pods()] == [pod["pod_id"]], "no other was needed"


async def test_a_pod_that_an_operator_asks_for_does_not_wait_for_the_next_look(tmp_path: Path) -> None:
    rarely = f"watch: {{interval_s: {RARELY_S}, boot_s: 60, worker_s: 5}}"
    async with local_fleet.from_zero(tmp_path, rarely) as fleet, operator(fleet) as stub:
        spawn = operator_pb2.SpawnPodRequest(provider="local", request_id=str(uuid.uuid4()))
        made = await stub.SpawnPod(spawn, metadata=OPERATOR)
        async with asyncio.timeout(RARELY_S / 2):
            # It comes up, although nothing waits for it.
            await fleet.until(lambda pods: pods[0]["ready_time"] is not None)
            destroy = operator_pb2.DestroyPodRequest(pod_id=made.pod.pod_id)
            await stub.DestroyPod(destroy, metadata=OPERATOR)
            while fleet.workers():  # noqa: ASYNC110 - by the scheduler
                await asyncio.sleep(0.05)


async def test_a_pod_that_an_operator_asks_for_is_given_back_when_it_was_idle_and_no_sooner(tmp_path: Path) -> None:
    async with local_fleet.from_zero(tmp_path) as fleet, operator(fleet) as stub:
        spawn = operator_pb2.SpawnPodRequest(provider="local", request_id=str(uuid.uuid4()))
        await stub.SpawnPod(spawn, metadata=OPERATOR)
        (pod,) = await fleet.until(lambda pods: pods[0]["end_time"] is not None)
        assert (pod["state"], pod["reason"], pod["workload"]) == ("DESTROYED", "IDLE", "")
        assert pod["drain_time"] - pod["ready_time"] >= IDLE
