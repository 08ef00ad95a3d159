"""StreamResults when the store has lost a result, and when unacknowledged results hold back new ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2

from podium.common.v1 import job_pb2
from podium.gateway.v1 import gateway_pb2
from tests.integration import gateway_rig
from tests.integration.test_gateway_results import complete, covered, done_job, finish, read_all, refused, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as running:
        yield running


async def test_a_result_that_is_missing_is_reported_and_waited_for(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    await rig.redis.hdel(f"podium:index:{{{job.job_id}}}", "10")
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    async with asyncio.timeout(gateway_rig.STEP_S):
        while job.job_id not in rig.ledger.missing:
            rig.ledger.looked.clear()
            await rig.ledger.looked.wait()
            await asyncio.sleep(0)
    await complete(rig, job, 1)
    assert covered(await reading) == list(range(25))


async def test_a_batch_that_is_being_computed_is_not_reported(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    await complete(rig, job, 0)
    reading = asyncio.create_task(read_all(stream(rig, job.job_id)))
    for _ in range(3):
        rig.ledger.looked.clear()
        async with asyncio.timeout(gateway_rig.STEP_S):
            await rig.ledger.looked.wait()
    await complete(rig, job, 1)
    await finish(rig, job)
    assert covered(await reading) == list(range(20))
    assert job.job_id not in rig.ledger.missing


async def test_a_waiting_reader_is_asked_to_acknowledge_when_results_hold_back_work(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    await complete(rig, job, 0)
    rig.ledger.acknowledge_results = True
    call = stream(rig, job.job_id)
    cursors: list[str] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while (message := await call.read()) is not grpc.aio.EOF:
            cursors.append(message.cursor)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info = gateway_rig.detail(caught.value, error_details_pb2.ErrorInfo)
    assert info.reason == "RESULTS_UNACKNOWLEDGED"
    assert info.metadata["after_cursor"] == cursors[-1]
    assert gateway_rig.detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    reading = asyncio.create_task(read_all(stream(rig, job.job_id, cursors[-1])))
    # It has nothing more to acknowledge, so it may wait.
    rig.ledger.looked.clear()
    async with asyncio.timeout(gateway_rig.STEP_S):
        await rig.ledger.looked.wait()
    await complete(rig, job, 1)
    await finish(rig, job)
    assert covered(await reading) == list(range(10, 20))
    assert (job.job_id, 10) in rig.ledger.released
    rig.ledger.acknowledge_results = False


async def test_a_reader_that_resumed_is_asked_to_acknowledge_what_it_had_before(rig: gateway_rig.Rig) -> None:
    job = rig.ledger.add_job("app-a", 20, 10)
    await complete(rig, job, 0)
    call = stream(rig, job.job_id)
    async with asyncio.timeout(gateway_rig.STEP_S):
        message: gateway_pb2.StreamResultsResponse = await call.read()
        while covered([message])[-1] < 9:
            message = await call.read()
    call.cancel()
    rig.ledger.acknowledge_results = True
    error = await refused(stream(rig, job.job_id, "", message.cursor), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert gateway_rig.detail(error, error_details_pb2.ErrorInfo).reason == "RESULTS_UNACKNOWLEDGED"
    rig.ledger.acknowledge_results = False


async def test_a_reader_at_the_end_of_an_unfinished_job_is_asked_too(rig: gateway_rig.Rig) -> None:
    job = await done_job(rig)
    await finish(rig, job, job_pb2.JOB_STATE_RUNNING)
    rig.ledger.acknowledge_results = True
    error = await refused(stream(rig, job.job_id), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert gateway_rig.detail(error, error_details_pb2.ErrorInfo).reason == "RESULTS_UNACKNOWLEDGED"
    rig.ledger.acknowledge_results = False
