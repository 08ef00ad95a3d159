"""The proxy of the fault tests does what it says, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.tcp_proxy import FAIR, Conditions, Flow, TcpProxy

STEP_S = 20.0


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[TcpProxy]:
    """A proxy before a server that gives back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, TcpProxy(server.sockets[0].getsockname()[1]) as proxy, asyncio.timeout(STEP_S):
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy: TcpProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection through the proxy that has carried something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        yield reader, writer
    finally:
        writer.transport.abort()


async def works(proxy: TcpProxy) -> None:
    async with connected(proxy):
        pass


async def nothing_comes(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)


async def test_large_transfers_arrive_whole_and_ends_are_passed_on() -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        sent = bytes(range(256)) * 20_000

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        _, received = await asyncio.gather(send(), reader.read(-1))
        assert received == sent


async def test_what_is_held_arrives_afterwards() -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        await proxy.impose(Conditions(up=Flow.HOLD))
        writer.write(b"late")
        await nothing_comes(reader)
        await proxy.heal()
        assert await reader.readexactly(4) == b"late"


async def test_one_direction_can_be_held_alone() -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        await proxy.impose(Conditions(down=Flow.HOLD))
        writer.write(b"late")
        await nothing_comes(reader)
        await proxy.heal()
        assert await reader.readexactly(4) == b"late"


async def test_a_held_sender_feels_the_back_pressure() -> None:
    async with echo() as proxy, connected(proxy) as (_, writer):
        await proxy.impose(Conditions(up=Flow.HOLD))
        writer.transport.set_write_buffer_limits(high=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                for _ in range(1_000):
                    writer.write(bytes(1 << 16))
                    await writer.drain()


async def test_a_connection_that_lost_bytes_is_reset_when_all_is_well_again() -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        await proxy.impose(Conditions(up=Flow.SWALLOW, down=Flow.SWALLOW))
        writer.write(b"lost")
        await nothing_comes(reader)
        await proxy.heal()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await works(proxy)


async def test_refusing_keeps_what_is_connected_and_the_address() -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        await proxy.impose(Conditions(listening=False))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        address = proxy.address
        await proxy.heal()
        assert proxy.address == address
        await works(proxy)


async def test_every_connection_is_reset_at_once() -> None:
    async with echo() as proxy, connected(proxy) as (first, _), connected(proxy) as (second, _):
        assert proxy.reset_all() == 2
        for reader in (first, second):
            with pytest.raises(ConnectionResetError):
                await reader.read(1)


async def test_a_dead_target_resets_its_callers() -> None:
    async with echo() as proxy:
        await works(proxy)
    async with TcpProxy(proxy.target_port) as orphan, asyncio.timeout(STEP_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", orphan.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.transport.abort()


@pytest.mark.parametrize("conditions", [Conditions(delay_s=0.1), Conditions(bytes_per_s=50.0)])
async def test_slow_weather_takes_its_time(conditions: Conditions) -> None:
    async with echo() as proxy, connected(proxy) as (reader, writer):
        await proxy.impose(conditions)
        loop = asyncio.get_running_loop()
        before = loop.time()
        writer.write(b"slow!")
        assert await reader.readexactly(5) == b"slow!"
        assert loop.time() - before >= 0.19
        await proxy.impose(FAIR)
