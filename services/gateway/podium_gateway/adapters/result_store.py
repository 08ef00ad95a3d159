"""Results in Redis, read by one script per page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import redis.asyncio
import redis.exceptions

from podium_gateway.app import ports
from podium_runtime import errors

_SCRIPT = resources.files(__package__).joinpath("read_results.lua").read_text(encoding="utf-8")


class RedisResultStore:
    """Implements ports.ResultStore."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._read = client.register_script(_SCRIPT)

    async def read(
        self, job_id: str, start: ports.ReadFrom, max_bytes: int, max_batches: int = 0
    ) -> Sequence[ports.StoredBatch]:
        # The braces make one slot of a job's keys in a Redis cluster.
        keys = [f"{self._prefix}:index:{{{job_id}}}", f"{self._prefix}:results:{{{job_id}}}"]
        async with _translated():
            found = await self._read(keys=keys, args=[start.batch, start.after, max_bytes, max_batches])
        return [_stored(batch) for batch in found]

    async def ping(self) -> None:
        async with _translated():
            await self._client.ping()


def _stored(raw: list[Any]) -> ports.StoredBatch:
    first_item, item_count, complete, last_entry, chunks = raw
    return ports.StoredBatch(first_item, item_count, complete == 1, last_entry.decode(), tuple(chunks))


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        raise errors.Unavailable(
            "the result store cannot be reached", reason="RESULTS_UNAVAILABLE", retry_after_s=1.0
        ) from error
