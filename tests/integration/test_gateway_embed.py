"""Embed through a real gateway process: errors on the wire, cancellation, metrics."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2

from podium.common.v1 import item_pb2
from podium.gateway.v1 import gateway_pb2
from podium_runtime import errors
from tests.integration import gateway_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def _request(*texts: str) -> gateway_pb2.EmbedRequest:
    items = [item_pb2.TextItem(text=text, key=f"k{n}") for n, text in enumerate(texts)]
    return gateway_pb2.EmbedRequest(workload="texts", texts=item_pb2.TextItems(items=items))


async def test_an_answer(rig: gateway_rig.Rig) -> None:
    answer = await rig.stub.Embed(_request("a", "bb"), metadata=rig.metadata)
    assert (answer.chunk.item_count, answer.token_count, list(answer.chunk.keys)) == (2, 4, ["k0", "k1"])
    assert rig.ledger.embeds[-1].app_id == "app-a"


async def test_a_bad_field_has_its_path(rig: gateway_rig.Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.Embed(_request("a", ""), metadata=rig.metadata)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = gateway_rig.detail(caught.value, error_details_pb2.BadRequest)
    assert [v.field for v in bad.field_violations] == ["texts.items[1].text"]


async def test_a_refusal_is_passed_on_once_with_its_wait(rig: gateway_rig.Rig) -> None:
    rig.ledger.embed_refusal = errors.Unavailable("none is warm", reason="NO_WARM_WORKER", retry_after_s=12.5)
    before = rig.ledger.calls.count("Embed")
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.stub.Embed(_request("a"), metadata=rig.metadata)
    finally:
        rig.ledger.embed_refusal = None
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway_rig.reason(caught.value) == "NO_WARM_WORKER"
    retry = gateway_rig.detail(caught.value, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 12_500
    assert rig.ledger.calls.count("Embed") == before + 1


async def test_a_cancelled_call_is_cancelled_at_the_scheduler(rig: gateway_rig.Rig) -> None:
    rig.ledger.embed_gate = asyncio.Event()
    rig.ledger.stalled.clear()
    try:
        call = rig.stub.Embed(_request("a"), metadata=rig.metadata)
        async with asyncio.timeout(gateway_rig.STEP_S):
            # The call is sent by whoever waits for it.
            waiting = asyncio.ensure_future(call)
            await rig.ledger.stalled.wait()
            waiting.cancel()
            await rig.ledger.stall_cancelled.wait()
    finally:
        rig.ledger.embed_gate = None


async def test_calls_are_counted(rig: gateway_rig.Rig) -> None:
    await rig.stub.Embed(_request("a"), metadata=rig.metadata)
    text = await asyncio.to_thread(_scrape, rig.gateway.metrics)
    assert 'podium_embed_calls_total{outcome="OK",workload="texts"}' in text
    assert 'podium_embed_seconds_count{workload="texts"}' in text
    assert "podium_embed_calls_in_flight 0.0" in text


def _scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=gateway_rig.STEP_S) as answer:
        found: str = answer.read().decode()
    return found
