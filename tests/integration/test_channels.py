"""Channels: a server that hangs is noticed soon, and not after gRPC's own minute; one that is slow is not given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from podium_client import rpc
from podium_client.config import Endpoint
from podium_runtime import channels
from podium_runtime.grpc_server import DEFAULT_MESSAGE_BYTES, server_options
from tests.support.tcp_proxy import Conditions, Flow, TcpProxy

ROOM_S = 6.0
STEP_S = 30.0
SDK_NOTICES_S = 15.0


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    """Before a server that gives back what it is asked."""

    async def echo(request: bytes, _: object) -> bytes:
        return request

    server = grpc.aio.server(options=server_options(DEFAULT_MESSAGE_BYTES))
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with TcpProxy(port) as made:
        yield made
        # What it holds goes first, then the server closes its ends: so all of its connections end in good order.
        await made.heal()
        await server.stop(None)
        async with asyncio.timeout(STEP_S):
            while made.connections:  # noqa: ASYNC110 - by the other ends
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("open_channel", "limit_s"),
    [
        (channels.open_channel, channels.NOTICED_S),
        (lambda address: rpc.open_channel(Endpoint(address, None, None, "test")), SDK_NOTICES_S),
    ],
    ids=["services", "SDK"],
)
async def test_a_hanging_server_is_noticed(
    proxy: TcpProxy, open_channel: Callable[[str], grpc.aio.Channel], limit_s: float
) -> None:
    async with open_channel(proxy.address) as channel:
        call: Any = channel.unary_unary("/test.Test/Echo")
        # Data on the line makes gRPC measure it: its ping is on its way when the silence begins.
        for _ in range(3):
            assert await call(b"x" * 100_000) == b"x" * 100_000
        await proxy.impose(Conditions(up=Flow.HOLD, down=Flow.HOLD))
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with asyncio.timeout(55):
                await call(b"anybody there?")
        took_s = time.monotonic() - began
    print(f"noticed after {took_s:.1f} s")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert took_s < limit_s + ROOM_S


async def test_a_server_that_is_slow_to_shake_hands_is_not_unavailable(proxy: TcpProxy) -> None:
    """Longer than the first pause between two attempts to connect."""
    await proxy.impose(Conditions(delay_s=0.4))
    async with channels.open_channel(proxy.address) as channel, asyncio.timeout(STEP_S):
        call: Any = channel.unary_unary("/test.Test/Echo")
        assert await call(b"hello") == b"hello"
