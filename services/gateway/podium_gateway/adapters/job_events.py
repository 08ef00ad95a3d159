"""Wake-ups over Redis pub/sub: one connection for the whole gateway, one channel for each job and each
consumer group that somebody watches.

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

from podium_gateway.app import cancellation, wakes
from podium_runtime import logs

log = logs.get_logger(__name__)

_RECONNECT_S = 0.5
# AttributeError: redis-py takes a connection apart under the task that sends when the one that listens meets its end.
_BROKEN = (redis.exceptions.RedisError, OSError, AttributeError)


class JobEvents:
    """Implements ports.JobEvents. It is also a loop: a round is one life of the connection."""

    name = "job_events"

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        """`client`: one that does not mend its connections by itself; that would happen under a listener's hands."""
        self.wake = asyncio.Event()
        self._client = client
        self._prefix = prefix
        # Keeps the connection subscribed to something while nobody watches a job; nothing is published there.
        self._idle_channel = f"{prefix}:gateway"
        self._watchers: dict[str, set[wakes.Wakes]] = {}
        self._pubsub: PubSub | None = None
        self._subscribed: set[str] = set()
        self._lock = asyncio.Lock()

    async def run_once(self) -> float:
        """Connects, subscribes and hands messages out until the connection breaks.

        Returns the seconds to rest before the next try.
        """
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(self._idle_channel)
            self._pubsub, self._subscribed = pubsub, set()
            await self._sync(*self._watchers)
            async for message in pubsub.listen():
                self._hand_out(message)
        except _BROKEN as error:
            log.warning("job_events_lost", error=str(error))
        finally:
            self._pubsub = None
            # Not while somebody subscribes on it: that call would find its connection pulled from under it.
            async with self._lock:
                with suppress(*_BROKEN):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
        return _RECONNECT_S

    @asynccontextmanager
    async def subscribe(self, job_id: str) -> AsyncIterator[wakes.Wakes]:
        """Wakes for one job."""
        async with self._watching(f"{self._prefix}:job:{job_id}") as woken:
            yield woken

    @asynccontextmanager
    async def subscribe_group(self, group_id: int) -> AsyncIterator[wakes.Wakes]:
        """Wakes for one consumer group."""
        async with self._watching(f"{self._prefix}:group:{group_id}") as woken:
            yield woken

    @asynccontextmanager
    async def _watching(self, channel: str) -> AsyncIterator[wakes.Wakes]:
        woken = wakes.Wakes()
        self._watchers.setdefault(channel, set()).add(woken)
        try:
            await self._sync(channel)
            cancellation.honour()
            yield woken
        finally:
            self._watchers[channel].discard(woken)
            if not self._watchers[channel]:
                del self._watchers[channel]
                await self._sync(channel)

    async def _sync(self, *channels: str) -> None:
        """Listens to those of the channels that have watchers now, and no more to the others.

        Under a lock, and by what is wanted now rather than when the caller asked: the last watcher of a job
        may leave while the next one arrives. Without a connection there is nothing to do; the next one
        catches up.
        """
        async with self._lock:
            if self._pubsub is None:
                return
            joined = self._watchers.keys() & set(channels) - self._subscribed
            left = self._subscribed.intersection(channels) - self._watchers.keys()
            try:
                if joined:
                    await self._pubsub.subscribe(*joined)
                if left:
                    await self._pubsub.unsubscribe(*left)
                self._subscribed = (self._subscribed | joined) - left
            except _BROKEN:
                # The listener meets the same end, and the next life catches up.
                self._pubsub = None

    def _hand_out(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        kinds = (wakes.RESULTS, wakes.STATE, wakes.DELIVERIES)
        if message["type"] == "message":
            kinds = (message["data"].decode(),)  # type: ignore[assignment]
        elif message["type"] != "subscribe":
            return
        for woken in self._watchers.get(channel, ()):
            woken.notify(*kinds)
