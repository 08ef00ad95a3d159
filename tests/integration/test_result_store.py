"""What the gateway reads of results: the same, whether they come with the script that finds them or after it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from podium_gateway.adapters.result_store import RedisResultStore
from podium_gateway.app import ports
from podium_scheduler.adapters.redis import buffer as adapter

JOB = uuid.UUID(int=1)
MUCH = 1 << 20


@pytest.fixture
def store(buffer: adapter.Buffer) -> RedisResultStore:
    return RedisResultStore(buffer.client, "test")


async def read(store: RedisResultStore, start: ports.ReadFrom, most: int = MUCH) -> list[tuple[int, bool, list[bytes]]]:
    found = await store.read(str(JOB), start, most)
    return [(batch.first_item, batch.complete, [bytes(chunk) for chunk in batch.chunks]) for batch in found]


@pytest.mark.parametrize(
    ("chunks", "size"), [(2, 10), (2, 32 << 10), (2, (32 << 10) + 1), (1_000, 3), (1_001, 3)], ids=str
)
async def test_a_page_is_the_same_however_it_comes(
    buffer: adapter.Buffer, store: RedisResultStore, chunks: int, size: int
) -> None:
    first = [b"%03d" % (number % 1_000) + bytes(size - 3) for number in range(chunks - 1)]
    await buffer.admit_results([(JOB, 0, 4, first), (JOB, 4, 4, [b"x" * size])])
    assert await read(store, ports.ReadFrom(0)) == [(0, True, first), (4, True, [b"x" * size])]
    assert await read(store, ports.ReadFrom(4)) == [(4, True, [b"x" * size])]
    assert await read(store, ports.ReadFrom(8)) == []


async def test_a_batch_is_read_on_where_the_page_before_has_ended(
    buffer: adapter.Buffer, store: RedisResultStore
) -> None:
    await buffer.admit_results([(JOB, 0, 4, [b"a" * 10, b"b" * 10, b"c" * 10])])
    (page,) = await store.read(str(JOB), ports.ReadFrom(0), 15)
    assert ([bytes(c) for c in page.chunks], page.complete) == ([b"a" * 10, b"b" * 10], False)
    assert await read(store, ports.ReadFrom(0, page.last_entry), 15) == [(0, True, [b"c" * 10])]


async def test_what_was_lost_between_ends_the_page(buffer: adapter.Buffer, store: RedisResultStore) -> None:
    await buffer.admit_results([(JOB, first, 2, [b"%d" % first, b"more"]) for first in (0, 2, 4)])
    fields: Any = await buffer.client.hkeys(buffer.chunks_key(JOB))
    await buffer.client.hdel(buffer.chunks_key(JOB), next(field for field in fields if field.startswith(b"2:")))
    assert await read(store, ports.ReadFrom(0)) == [(0, True, [b"0", b"more"])]
