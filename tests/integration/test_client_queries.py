"""The SDK's interactive calls, over real gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

import podium_client
from podium_cli import exits
from podium_client import AsyncClient, Client, RetryPolicy
from tests.support import fake_gateway
from tests.support.command import Run
from tests.support.fake_gateway import FakeGateway, Refusal, serve_fake_gateway

QUICK = RetryPolicy(first_pause_s=0.001, longest_pause_s=0.01)
COLD = Refusal(message="none is warm", reason="NO_WARM_WORKER", retry_after_s=0.001)


@pytest.fixture
async def server() -> AsyncIterator[FakeGateway]:
    async with serve_fake_gateway() as gateway:
        yield gateway


@pytest.fixture
async def client(server: FakeGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, fake_gateway.TOKEN, retry=QUICK) as made:
        yield made


async def test_texts_come_back_as_vectors_in_order(server: FakeGateway, client: AsyncClient) -> None:
    result = await client.query_texts(["a", "b", "c"], workload="fake", keys=["x", "y", "z"], dimensions=8)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(["a", "b", "c"], 8))
    assert (result.keys, result.jobs) == (("x", "y", "z"), ())
    assert result.ok.all()
    assert server.calls["SubmitBatch"] == 0


async def test_images_and_encodings(client: AsyncClient) -> None:
    result = await client.query_images([b"file", "http://host/a.png"], workload="fake-image", dtype="int8")
    expected = fake_gateway.encode(fake_gateway.vectors([b"file", "http://host/a.png"]), "int8")
    np.testing.assert_array_equal(result.vectors, expected)
    assert result.dtype == "int8"


async def test_the_synchronous_client_does_the_same(server: FakeGateway) -> None:
    def run() -> podium_client.Embeddings:
        with Client(server.address, fake_gateway.TOKEN, retry=QUICK) as client:
            client.query_images([b"file"], workload="fake-image")
            return client.query_texts(["a"], workload="fake")

    result = await asyncio.to_thread(run)
    np.testing.assert_array_equal(result.vectors, fake_gateway.vectors(["a"]))


async def test_an_item_that_fails_raises_unless_it_is_to_be_returned(client: AsyncClient) -> None:
    with pytest.raises(podium_client.ItemsFailed) as caught:
        await client.query_texts(["a", "FAIL"], workload="fake")
    assert [e.index for e in caught.value.result.errors] == [1]
    result = await client.query_texts(["a", "FAIL"], workload="fake", on_error="return")
    assert result.ok.tolist() == [True, False]


async def test_a_refusal_that_passes_in_time_is_tried_again(server: FakeGateway, client: AsyncClient) -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "APP_EMBED_LIMIT", 0.001)
    server.refusals["Embed"].extend([COLD, full, COLD])
    await client.query_texts(["a"], workload="fake")
    assert server.calls["Embed"] == 4


async def test_one_that_does_not_is_raised_at_once(server: FakeGateway, client: AsyncClient) -> None:
    server.refusals["Embed"].append(Refusal(message="cold", reason="NO_WARM_WORKER", retry_after_s=60.0))
    async with asyncio.timeout(5):
        with pytest.raises(podium_client.Unavailable) as caught:
            await client.query_texts(["a"], workload="fake", timeout_s=10.0)
    assert (caught.value.reason, caught.value.retry_after_s) == ("NO_WARM_WORKER", 60.0)
    assert server.calls["Embed"] == 1


async def test_what_is_wrong_is_not_tried_again(server: FakeGateway, client: AsyncClient) -> None:
    server.refusals["Embed"].append(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "bad", "BAD", None))
    with pytest.raises(podium_client.InvalidInput):
        await client.query_texts(["a"], workload="fake")
    assert server.calls["Embed"] == 1
    with pytest.raises(TypeError, match="not a single str"):
        await client.query_texts("a", workload="fake")
    with pytest.raises(podium_client.InvalidInput, match="keys"):
        await client.query_texts(["a"], workload="fake", keys=["x", "y"])


async def test_a_broken_answer_is_found_out(server: FakeGateway, client: AsyncClient) -> None:
    server.corrupt = "crc"
    with pytest.raises(podium_client.ProtocolError):
        await client.query_texts(["a"], workload="fake")


async def test_the_command_prints_a_line_for_each_text(fake: FakeGateway, podium: Run) -> None:
    ended = await podium("embed", "a", "FAIL", "-w", "fake")
    assert ended.code == exits.ITEMS_FAILED
    first, second = map(json.loads, ended.out.splitlines())
    np.testing.assert_array_equal(np.float32(first["vector"]), fake_gateway.vector("a"))
    assert (first["index"], second) == (
        0,
        {"index": 1, "error": {"reason": "EMPTY_INPUT", "message": "nothing to read"}},
    )
    ended = await podium("embed", "a", "-w", "fake", "--input-type", "neither")
    assert ended.code == exits.BAD_INPUT
