"""Results in Redis: a script looks up where a page of them is, and brings it if it is small; else one command reads
it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.asyncio
import redis.exceptions

from podium_gateway.app import ports
from podium_runtime import errors

_SCRIPT = resources.files(__package__).joinpath("find_results.lua").read_text(encoding="utf-8")
# What goes through a script is copied three times more, and that is less than a round trip.
_SMALL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class _Span:
    """Chunks [first, stop) of a batch's upload; `complete` when its last is among them."""

    first_item: int
    item_count: int
    complete: bool
    upload: str
    first: int
    stop: int

    @property
    def fields(self) -> list[str]:
        return [f"{self.first_item}:{self.upload}:{number}" for number in range(self.first, self.stop)]


class RedisResultStore:
    """Implements ports.ResultStore."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._find = client.register_script(_SCRIPT)

    async def read(
        self, job_id: str, start: ports.ReadFrom, max_bytes: int, max_batches: int = 0
    ) -> Sequence[ports.StoredBatch]:
        # The braces make one slot of a job's keys in a Redis cluster.
        index, chunks = f"{self._prefix}:index:{{{job_id}}}", f"{self._prefix}:chunks:{{{job_id}}}"
        upload, _, read = start.after.partition(":")
        async with _translated():
            args: list[str | int] = [start.batch, upload, read or 0, max_bytes, max_batches, _SMALL_BYTES]
            places, *brought = await self._find(keys=[index, chunks], args=args)
            if not places:
                return []
            spans = [_span(place) for place in places]
            fields = [field for span in spans for field in span.fields]
            found: list[Any] = brought[0] if brought else await self._client.hmget(chunks, fields)
        return _stored(spans, found)

    async def ping(self) -> None:
        async with _translated():
            await self._client.ping()


def _span(raw: list[Any]) -> _Span:
    first_item, item_count, complete, upload, first, stop = raw
    return _Span(first_item, item_count, complete == 1, upload.decode(), first, stop)


def _stored(spans: Sequence[_Span], found: Sequence[bytes | bytearray | None]) -> list[ports.StoredBatch]:
    """The batches up to the first that was dropped between the two looks, or lost."""
    batches: list[ports.StoredBatch] = []
    at = 0
    for span in spans:
        chunks = [chunk for chunk in found[at : at + span.stop - span.first] if chunk is not None]
        at += span.stop - span.first
        if len(chunks) < span.stop - span.first:
            break
        after = f"{span.upload}:{span.stop}"
        batches.append(ports.StoredBatch(span.first_item, span.item_count, span.complete, after, tuple(chunks)))
    return batches


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        raise errors.Unavailable(
            "the result store cannot be reached", reason="RESULTS_UNAVAILABLE", retry_after_s=1.0
        ) from error
