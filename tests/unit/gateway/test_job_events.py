"""The gateway's wake-ups while their connection comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import redis.asyncio
import redis.exceptions

from podium_gateway.adapters.job_events import JobEvents

STEP_S = 10.0


class PubSub:
    """As redis-py's: closing it takes the connection away, also from a subscribe that is on its way."""

    def __init__(self, *, taken_apart: bool = False) -> None:
        self._taken_apart = taken_apart
        self.listening = asyncio.Event()
        self.subscribing = asyncio.Event()
        self.answer = asyncio.Event()
        self.broken = asyncio.Event()
        self._connected = True

    async def subscribe(self, *channels: str) -> None:
        if channels == ("podium:gateway",):
            return
        if self._taken_apart:
            raise AttributeError("'NoneType' object has no attribute 'writelines'")
        self.subscribing.set()
        await self.answer.wait()
        if not self._connected:
            raise AttributeError("'NoneType' object has no attribute 'credential_provider'")

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "subscribe", "channel": b"podium:gateway"}
        self.listening.set()
        await self.broken.wait()
        raise redis.exceptions.ConnectionError("reset by peer")

    async def unsubscribe(self, *channels: str) -> None:
        pass

    async def aclose(self) -> None:
        self._connected = False


class Client:
    def __init__(self, made: PubSub) -> None:
        self.made = made

    def pubsub(self) -> PubSub:
        return self.made


async def test_the_connection_breaks_while_a_reader_subscribes() -> None:
    client = Client(PubSub())
    events = JobEvents(cast(redis.asyncio.Redis, client), "podium")

    async def read() -> str:
        async with events.subscribe("job"):
            return "subscribed"

    async with asyncio.timeout(STEP_S):
        life = asyncio.create_task(events.run_once())
        await client.made.listening.wait()
        reading = asyncio.create_task(read())
        await client.made.subscribing.wait()
        client.made.broken.set()
        for _ in range(10):
            await asyncio.sleep(0)
        client.made.answer.set()
        assert await reading == "subscribed"
        assert await life > 0


async def test_a_reader_subscribes_on_a_connection_that_the_listener_has_just_lost() -> None:
    client = Client(PubSub(taken_apart=True))
    events = JobEvents(cast(redis.asyncio.Redis, client), "podium")
    async with asyncio.timeout(STEP_S):
        life = asyncio.create_task(events.run_once())
        await client.made.listening.wait()
        async with events.subscribe("job"):
            client.made.broken.set()
        assert await life > 0
