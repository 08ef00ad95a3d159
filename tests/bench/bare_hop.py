"""One bare gRPC hop: a grpc.aio server that streams chunks it has made before, and swallows requests."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence

import grpc

from tests.bench import children

_SERVICE = "bench.Hop"
# As Podium's own channels: chunks are up to 1 MiB, requests of 10,000 texts somewhat more.
_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def _same(data: bytes) -> bytes:
    return data


class Hop:
    """The client's end."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stream = self._channel.unary_stream(f"/{_SERVICE}/Stream", _same, _same)
        self._swallow = self._channel.unary_unary(f"/{_SERVICE}/Swallow", _same, _same)

    async def stream(self, messages: int, size: int) -> float:
        """Seconds to receive `messages` messages of `size` bytes."""
        started = time.perf_counter()
        received = 0
        async for message in self._stream(f"{messages} {size}".encode()):
            received += len(message)
        assert received == messages * size
        return time.perf_counter() - started

    async def send(self, requests: Sequence[bytes], at_once: int) -> float:
        """Seconds until all requests are answered, `at_once` in flight."""
        gate = asyncio.Semaphore(at_once)

        async def one(request: bytes) -> None:
            async with gate:
                await self._swallow(request)

        started = time.perf_counter()
        await asyncio.gather(*(one(request) for request in requests))
        return time.perf_counter() - started

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


async def _stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
    messages, size = map(int, request.split())
    message = bytes(size)
    for _ in range(messages):
        yield message


async def _swallow(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return b"ok"


async def main() -> None:
    """Serves until standard input ends."""
    server = grpc.aio.server(options=_OPTIONS)
    handlers = {
        "Stream": grpc.unary_stream_rpc_method_handler(_stream, _same, _same),
        "Swallow": grpc.unary_unary_rpc_method_handler(_swallow, _same, _same),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    children.say(address=f"127.0.0.1:{port}")
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
