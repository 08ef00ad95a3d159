"""Wake-ups over Redis pub/sub: one connection for the whole gateway, one channel for each job that somebody
watches.

Promises only to be quick when it works. Nobody is told when the connection is down; it comes back by itself,
with all channels, and wakes everybody once, as messages may have been missed. The same happens to one channel
when Redis confirms its subscription, so that nothing falls between a first look and the subscription.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.client import PubSub

from podium_gateway.app import wakes
from podium_runtime import logs

log = logs.get_logger(__name__)

_RECONNECT_S = 0.5
_BROKEN = (redis.exceptions.RedisError, OSError)


class JobEvents:
    """Implements ports.JobEvents. It is also a loop: a round is one life of the connection."""

    name = "job_events"

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        self.wake = asyncio.Event()
        self._client = client
        self._prefix = prefix
        # Keeps the connection subscribed to something while nobody watches a job; nothing is published there.
        self._idle_channel = f"{prefix}:gateway"
        self._watchers: dict[str, set[wakes.Wakes]] = {}
        self._pubsub: PubSub | None = None

    async def run_once(self) -> float:
        """Connects, subscribes and hands messages out until the connection breaks; returns the seconds to
        rest."""
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(self._idle_channel, *self._watchers)
            self._pubsub = pubsub
            async for message in pubsub.listen():
                self._hand_out(message)
        except _BROKEN as error:
            log.warning("job_events_lost", error=str(error))
        finally:
            self._pubsub = None
            with suppress(*_BROKEN):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
        return _RECONNECT_S

    @asynccontextmanager
    async def subscribe(self, job_id: str) -> AsyncIterator[wakes.Wakes]:
        """Wakes for one job."""
        channel = f"{self._prefix}:job:{job_id}"
        woken = wakes.Wakes()
        watchers = self._watchers.setdefault(channel, set())
        watchers.add(woken)
        if len(watchers) == 1:
            await self._tell("subscribe", channel)
        try:
            yield woken
        finally:
            watchers.discard(woken)
            if not watchers and self._watchers.get(channel) is watchers:
                del self._watchers[channel]
                await self._tell("unsubscribe", channel)

    async def _tell(self, command: str, channel: str) -> None:
        """Changes what the connection listens to; when there is none, the next one starts with what is
        wanted."""
        if self._pubsub is not None:
            with suppress(*_BROKEN):
                await getattr(self._pubsub, command)(channel)

    def _hand_out(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        kinds = (wakes.RESULTS, wakes.STATE)
        if message["type"] == "message":
            kinds = (message["data"].decode(),)  # type: ignore[assignment]
        elif message["type"] != "subscribe":
            return
        for woken in self._watchers.get(channel, ()):
            woken.notify(*kinds)
