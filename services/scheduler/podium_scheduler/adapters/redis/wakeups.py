"""Wake-ups between replicas and gateways by Redis pub/sub. A message lost costs a poll interval, never more.

So nobody waits long to send one: the leader's heartbeat goes on while Redis is silent, and an admitted job is answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from redis import exceptions

from podium_runtime import logs
from podium_scheduler.adapters.redis.buffer import Buffer

log = logs.get_logger(__name__)
_PATIENCE_S = 0.5
Handler = Callable[[Mapping[str, object]], Awaitable[None]]


class Wakeups:
    """Publishes wake-ups, and listens to those of the other replicas."""

    def __init__(self, buffer: Buffer, prefix: str, replica_id: str) -> None:
        self._buffer = buffer
        self._client = buffer.client
        self._channel = f"{prefix}:wake"
        self._prefix = prefix
        self._replica_id = replica_id

    async def replicas(self, kind: str, **fields: object) -> None:
        """Tells the other replicas: "feed", "work", "revoke", "leads"."""
        await self._publish([(self._channel, json.dumps({"kind": kind, "from": self._replica_id, **fields}))])

    async def job_changed(self, changes: Sequence[tuple[UUID, str]]) -> None:
        """Tells the gateways that jobs have "progress" in the ledger, or a new "state". Of new "results" they are told
        when those are put (Buffer.admit_results)."""
        await self._publish([(self._buffer.job_channel(job_id), kind) for job_id, kind in changes])

    async def deliveries(self, group_ids: Sequence[int]) -> None:
        """Tells the gateways that consumer groups have new deliveries."""
        await self._publish([(f"{self._prefix}:group:{group_id}", "deliveries") for group_id in group_ids])

    async def _publish(self, messages: Sequence[tuple[str, str]]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S), self._client.pipeline(transaction=False) as pipe:
                for channel, message in messages:
                    pipe.publish(channel, message)
                await pipe.execute()
        except (exceptions.RedisError, OSError) as error:
            log.warning("wake_up_not_published", error=repr(error))

    async def listen(self, handle: Handler) -> None:
        """Calls `handle` for each message of another replica, until cancelled. Reconnects by itself."""
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.subscribe(self._channel)
                    async for message in channel.listen():
                        if message["type"] != "message":
                            continue
                        await self._hear(message["data"], handle)
            except (exceptions.RedisError, OSError) as error:
                log.warning("wake_ups_interrupted", error=str(error))
                await asyncio.sleep(0.5)

    async def _hear(self, data: bytes, handle: Handler) -> None:
        try:
            content = json.loads(data)
            if content["from"] != self._replica_id:
                await handle(content)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # Anybody may publish on a channel, another version of ours too.
            log.warning("wake_up_not_understood", error=str(error))
