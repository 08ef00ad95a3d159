"""Large strings out of a real Redis, past redis-py's own reader."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis import exceptions

from podium_embedded import EmbeddedRedis
from podium_gateway.adapters import large_replies

MIB = 1 << 20
SIZES = [0, 1, 100, large_replies.LARGE_BYTES - 1, large_replies.LARGE_BYTES, 3 * MIB + 7, 5, MIB]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path) as running:
        yield running


def client(url: str) -> redis.asyncio.Redis:
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, parser_class=large_replies.Parser, max_connections=4)
    return redis.asyncio.Redis.from_pool(pool)


async def _every_size(url: str) -> None:
    async with client(url) as reader:
        values = {f"{number}": os.urandom(size) for number, size in enumerate(SIZES)}
        await reader.hset("values", mapping=values)  # type: ignore[arg-type]

        async def read() -> list[Any]:
            return await reader.hmget("values", [*values, "absent"])

        for found in await asyncio.gather(*(read() for _ in range(12))):
            assert found == [*values.values(), None]
            large = [size >= large_replies.LARGE_BYTES for size in SIZES]
            assert [isinstance(value, bytearray) for value in found] == [*large, False]


@pytest.mark.parametrize("way", ["url", "local_url"])
async def test_strings_of_every_size_come_whole(server: EmbeddedRedis, way: str) -> None:
    await _every_size(getattr(server, way))


async def _half_a_string(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers HELLO and everything after it, and hangs up in the middle of the first string."""
    while line := await reader.readline():
        if line.upper() == b"HELLO\r\n":
            writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        elif line.upper() == b"CLIENT\r\n":
            writer.write(b"+OK\r\n")
        elif line.upper() == b"GET\r\n":
            writer.write(b"$%d\r\n" % MIB + bytes(MIB // 2))
            break
    await writer.drain()
    writer.close()


async def test_a_connection_that_ends_in_a_string_ends_the_wait() -> None:
    server = await asyncio.start_server(_half_a_string, "127.0.0.1", 0)
    async with server, client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as reader:
        async with asyncio.timeout(20):
            with pytest.raises(exceptions.ConnectionError):
                await reader.get("large")
