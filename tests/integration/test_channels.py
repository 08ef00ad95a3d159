"""Channels: a server that hangs is noticed soon, and not after gRPC's own minute; one that is slow is not given up.

And they go by a proxy where one was set for gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import trustme

from podium_client import rpc
from podium_client.config import Endpoint
from podium_runtime import auth, channels, grpc_server, settings
from podium_runtime.grpc_server import DEFAULT_MESSAGE_BYTES, server_options
from tests.support.connect_proxy import ConnectProxy
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


async def test_a_hanging_server_is_noticed(proxy: TcpProxy) -> None:
    # Side by side, for it takes seconds.
    endpoint = Endpoint(proxy.address, None, None, "test")
    async with channels.open_channel(proxy.address) as services, rpc.open_channel(endpoint) as sdk:
        await asyncio.gather(warm(services), warm(sdk))
        await proxy.impose(Conditions(up=Flow.HOLD, down=Flow.HOLD))
        services_s, sdk_s = await asyncio.gather(noticed_s(services), noticed_s(sdk))
    print(f"noticed after {services_s:.1f} s by services, {sdk_s:.1f} s by the SDK")
    assert services_s < channels.NOTICED_S + ROOM_S
    assert sdk_s < SDK_NOTICES_S + ROOM_S


async def warm(channel: grpc.aio.Channel) -> None:
    """Data on the line makes gRPC measure it: its ping is on its way when the silence begins."""
    call: Any = channel.unary_unary("/test.Test/Echo")
    for _ in range(3):
        assert await call(b"x" * 100_000) == b"x" * 100_000


async def noticed_s(channel: grpc.aio.Channel) -> float:
    """How long a call takes to be refused."""
    call: Any = channel.unary_unary("/test.Test/Echo")
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async with asyncio.timeout(55):
            await call(b"anybody there?")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    return time.monotonic() - began


async def test_a_server_that_is_slow_to_shake_hands_is_not_unavailable(proxy: TcpProxy) -> None:
    """Longer than the first pause between two attempts to connect."""
    await proxy.impose(Conditions(delay_s=0.4))
    async with channels.open_channel(proxy.address) as channel, asyncio.timeout(STEP_S):
        call: Any = channel.unary_unary("/test.Test/Echo")
        assert await call(b"hello") == b"hello"


# --- proxies and TLS --------------------------------------------------------------------------------------

AFAR = "scheduler.tailnet:50052"


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without any proxy."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def echoed(address: str, tls: settings.Tls | None = None) -> bytes:
    async with channels.open_channel(address, tls=tls) as channel, asyncio.timeout(STEP_S):
        call: Any = channel.unary_unary("/test.Test/Echo")
        answer: bytes = await call(b"hello", wait_for_ready=True)
        return answer


async def test_a_plaintext_channel_goes_by_the_proxy_that_was_set_for_grpc(
    proxy: TcpProxy, surroundings: pytest.MonkeyPatch
) -> None:
    async with ConnectProxy({AFAR: proxy.address}) as way:
        surroundings.setenv("grpc_proxy", way.url)
        # Nobody but the proxy knows that name.
        assert await echoed(AFAR) == b"hello"
        assert set(way.asked) == {AFAR}
        surroundings.setenv("no_grpc_proxy", "localhost,scheduler.tailnet")
        asked = len(way.asked)
        async with channels.open_channel(AFAR) as channel:
            call: Any = channel.unary_unary("/test.Test/Echo")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"hello", timeout=STEP_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, "there is no such name"
        assert len(way.asked) == asked


async def test_a_proxy_for_downloads_does_not_catch_a_plaintext_channel(
    proxy: TcpProxy, surroundings: pytest.MonkeyPatch
) -> None:
    async with ConnectProxy() as way:
        surroundings.setenv("http_proxy", way.url)
        surroundings.setenv("https_proxy", way.url)
        assert await echoed(proxy.address) == b"hello"
        surroundings.setenv("grpc_proxy", way.url)
        assert await echoed(proxy.address) == b"hello", "no proxy has our loopback"
        # A proxy can be asked for one address only.
        assert await echoed(f"{proxy.address},{proxy.address}") == b"hello"
        assert way.asked == []


async def test_tls_by_pem_with_client_certificates_and_by_the_proxy(surroundings: pytest.MonkeyPatch) -> None:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    authority = trustme.CA()
    host = AFAR.partition(":")[0]
    trust, ours, theirs = authority.cert_pem.bytes(), authority.issue_cert(host), authority.issue_cert("pod.example")
    server = grpc_server.Server(
        "127.0.0.1:0", authenticator=auth.Authenticator({}, "anybody"), insecure=True,
        tls=settings.Tls(ours.cert_chain_pems[0].bytes(), ours.private_key_pem.bytes(), trust),
    )  # fmt: skip
    handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic(grpc.method_handlers_generic_handler("test.Test", handlers))
    address = await server.start()
    try:
        async with ConnectProxy({AFAR: address}) as way:
            surroundings.setenv("grpc_proxy", way.url)
            shown = settings.Tls(theirs.cert_chain_pems[0].bytes(), theirs.private_key_pem.bytes(), trust)
            assert await echoed(AFAR, shown) == b"hello"
            assert set(way.asked) == {AFAR}
            async with channels.open_channel(AFAR, tls=settings.Tls(ca=trust)) as channel:
                call: Any = channel.unary_unary("/test.Test/Echo")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(b"hello", timeout=STEP_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, "it shows no certificate"
    finally:
        await server.stop(0)
