"""The server's edge: what becomes of what a handler raises."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
import structlog.testing

from podium_runtime import auth, grpc_server

STEP_S = 10.0


class Calls(grpc.GenericRpcHandler):
    """One method, `/podium.test.v1.TestService/Fail`, that fails as it is told."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return grpc.unary_stream_rpc_method_handler(self._fail) if details.method.endswith("Fail") else None

    async def _fail(self, request: bytes, context: grpc_server.Context) -> None:
        asyncio.current_task().add_done_callback(lambda _: self.ended.set_result(None))  # type: ignore[union-attr]
        raise self._error


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [
        (grpc.aio.InternalError("a write on a broken connection"), grpc.StatusCode.CANCELLED, False),
        (ValueError("a mistake"), grpc.StatusCode.INTERNAL, True),
    ],
)
async def test_a_write_to_a_caller_that_is_gone_is_no_crash(
    error: Exception, code: grpc.StatusCode, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    counter = grpc_server.HANDLED.labels("podium.test.v1.TestService", "Fail", code.name)
    before = counter._value.get()
    server = grpc_server.Server("127.0.0.1:0", authenticator=auth.Authenticator({}, "anybody"), insecure=True)
    calls = Calls(error)
    server.add_generic(calls)
    address = await server.start()
    try:
        with structlog.testing.capture_logs() as said:
            async with grpc.aio.insecure_channel(address) as channel:
                fail: Any = channel.unary_stream("/podium.test.v1.TestService/Fail")
                call = fail(b"")
                await asyncio.wait_for(asyncio.shield(calls.ended), STEP_S)
                call.cancel()
        assert counter._value.get() == before + 1
        assert ("rpc_crashed" in [line["event"] for line in said]) == logged
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    finally:
        await server.stop(0)
