"""What the buffer tells of its own losses, and what it can still do when it is full."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from podium_embedded import EmbeddedRedis
from podium_runtime import errors
from podium_scheduler.adapters.redis import buffer as adapter
from podium_scheduler.app import pressure

MIB = 1 << 20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path) as running:
        yield running


@pytest.fixture
async def buffer(server: EmbeddedRedis) -> AsyncIterator[adapter.Buffer]:
    made = adapter.Buffer(server.url, prefix="test", consumer="me", result_ttl_s=60)
    yield made
    await made.close()


async def test_a_life_keeps_its_epoch_over_a_restart_but_is_another(
    server: EmbeddedRedis, buffer: adapter.Buffer
) -> None:
    before = await buffer.life("first")
    assert await buffer.life("second") == before
    port = server.port
    await server.stop()
    await server.start(port)
    with contextlib.suppress(errors.Unavailable):
        await buffer.ping()  # by a connection of the life before
    after = await buffer.life("third")
    assert after != before
    assert after.split("/")[0] == before.split("/")[0] == "first"


@pytest.mark.parametrize("evicted", ["index", "chunks"])
async def test_half_of_a_job_s_keys_is_as_good_as_none(buffer: adapter.Buffer, evicted: str) -> None:
    job_id = uuid.uuid4()
    await buffer.admit_results([(job_id, 0, 1, [b"chunk"])])
    await buffer.client.delete(buffer.index_key(job_id) if evicted == "index" else buffer.chunks_key(job_id))
    assert await buffer.result_items(job_id) == set()
    assert await buffer.client.exists(buffer.index_key(job_id), buffer.chunks_key(job_id)) == 0
    await buffer.admit_results([(job_id, 0, 1, [b"chunk"])])
    assert await buffer.result_items(job_id) == {0}


async def test_a_batch_without_all_its_chunks_counts_as_gone(buffer: adapter.Buffer) -> None:
    """The chunks were evicted and others came since, or an older version has stored it elsewhere."""
    job_id = uuid.uuid4()
    await buffer.admit_results([(job_id, first, 1, [b"a", b"b"]) for first in (0, 1)])
    there: list[Any] = await buffer.client.hkeys(buffer.chunks_key(job_id))
    lost = [field for field in there if field.startswith(b"0:")]
    await buffer.client.hdel(buffer.chunks_key(job_id), lost[0])
    await buffer.client.hset(buffer.index_key(job_id), "2", "1764150000000-0 1764150000000-1 1")
    assert await buffer.result_items(job_id) == {1}
    await buffer.admit_results([(job_id, first, 1, [b"a", b"b"]) for first in (0, 2)])
    assert await buffer.result_items(job_id) == {0, 1, 2}


async def test_named_batches_are_dropped_and_the_others_stay(buffer: adapter.Buffer) -> None:
    job_id = uuid.uuid4()
    await buffer.admit_results([(job_id, first, 10, [b"a", b"b", b"c"]) for first in (0, 10, 20, 30)])
    await buffer.drop_batches(job_id, [10, 30, 99])
    assert await buffer.result_items(job_id) == {0, 20}
    assert await buffer.client.hlen(buffer.chunks_key(job_id)) == 6
    await buffer.drop_batches(job_id, [0, 20])
    assert await buffer.client.exists(buffer.chunks_key(job_id)) == 0


async def test_a_full_redis_can_be_reconciled_released_and_shed(buffer: adapter.Buffer) -> None:
    job_id = uuid.uuid4()
    life = await buffer.life("first")
    await buffer.ensure_groups(["hash-384"])
    await buffer.push("hash-384", [7])
    await buffer.admit_results([(job_id, first, 1, [b"x" * MIB]) for first in range(3)])
    await buffer.client.config_set("maxmemory", MIB)
    with pytest.raises(errors.ResourceExhausted):
        await buffer.admit_results([(job_id, 3, 1, [b"y"])])
    assert await buffer.life("second") == life
    await buffer.ensure_groups(["hash-384"])
    entries = await buffer.read({"hash-384": 1})
    await buffer.settle(entries)
    assert [e.batch_id for e in entries] == [7]
    await buffer.release_results(job_id, 1)
    await buffer.drop_batches(job_id, [2])
    assert await buffer.result_items(job_id) == {1}


async def test_a_redis_that_evicts_is_told_of(buffer: adapter.Buffer, capsys: pytest.CaptureFixture[str]) -> None:
    gauge = pressure.PressureGauge(buffer)
    await gauge.run_once()
    assert pressure.EVICTS._value.get() == 0
    await buffer.client.config_set("maxmemory-policy", "allkeys-lru")
    await pressure.PressureGauge(buffer).run_once()
    assert pressure.EVICTS._value.get() == 1
    assert "buffer_evicts" in capsys.readouterr().out
