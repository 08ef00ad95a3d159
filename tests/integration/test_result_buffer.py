"""Results in a real Redis: each batch is there once, whatever is repeated, and what is released is gone."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from podium_runtime import errors
from podium_scheduler.adapters.redis import buffer as adapter

JOB = uuid.UUID(int=1)


async def chunks(buffer: adapter.Buffer) -> list[bytes]:
    """Every chunk that is there, those that nobody can find too, by item and number."""
    found: Any = await buffer.client.hgetall(buffer.chunks_key(JOB))
    return [found[field] for field in sorted(found, key=lambda f: (int(f.split(b":")[0]), int(f.split(b":")[2])))]


async def test_a_batch_is_admitted_once(buffer: adapter.Buffer) -> None:
    """The first attempt's answer was lost, or two attempts have finished: readers see one."""
    await buffer.admit_results([(JOB, 0, 2, [memoryview(b"-a0")[1:], b"a1"]), (JOB, 2, 2, [b"b0"])])
    await buffer.admit_results([(JOB, 2, 2, [b"late"]), (JOB, 0, 2, [b"late", b"later"])])
    assert await chunks(buffer) == [b"a0", b"a1", b"b0"]
    assert await buffer.result_items(JOB) == {0, 2}


async def test_who_waits_for_a_job_is_told_once_its_results_are_there(buffer: adapter.Buffer) -> None:
    async with asyncio.timeout(10), buffer.client.monitor() as seen:
        await buffer.admit_results([(JOB, 0, 2, [b"a"]), (JOB, 2, 2, [b"b"])])
        commands: list[str] = []
        while not any("PUBLISH" in command for command in commands):
            # Those that scripts give are not told apart: EVALSHA comes before its own.
            commands.append((await seen.next_command())["command"])
    assert commands[-1] == f"PUBLISH {buffer.job_channel(JOB)} results"
    assert sum(command.startswith("EVALSHA") for command in commands) == 2
    assert await buffer.result_items(JOB) == {0, 2}


async def test_who_may_not_publish_puts_results_all_the_same(buffer: adapter.Buffer) -> None:
    """As it is for new users of a Redis 7; readers look by themselves, later."""
    await buffer.client.acl_setuser("default", enabled=True, reset_channels=True)
    try:
        await buffer.admit_results([(JOB, 0, 2, [b"a"])])
    finally:
        await buffer.client.acl_setuser("default", enabled=True, channels=["*"])
    assert await buffer.result_items(JOB) == {0}


async def test_an_admission_whose_answer_was_lost_may_be_repeated(buffer: adapter.Buffer) -> None:
    for _ in range(2):
        await buffer.admit_results([(JOB, 0, 2, [b"a0", b"a1"])])
    assert await chunks(buffer) == [b"a0", b"a1"]
    assert await buffer.result_items(JOB) == {0}


async def test_attempts_that_are_put_at_the_same_time_do_not_mix(buffer: adapter.Buffer) -> None:
    """Each chunk is put by itself, so those of two attempts lie side by side for a moment."""
    attempts = [[b"%d" % attempt] * (1 + attempt % 3) for attempt in range(20)]
    await asyncio.gather(*(buffer.admit_results([(JOB, 0, 2, attempt)]) for attempt in attempts))
    assert await chunks(buffer) in attempts


async def test_results_that_are_lost_while_they_are_put_are_not_called_there(buffer: adapter.Buffer) -> None:
    """Chunks without an index look like the rest of an eviction; who looks for lost results drops them."""
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            await buffer.result_items(JOB)

    looking = asyncio.create_task(look())
    for first in range(0, 100, 2):
        while True:
            try:
                await buffer.admit_results([(JOB, first, 2, [b"a" * 100_000, b"b"])])
            except errors.Unavailable:
                continue
            break
        assert await chunks(buffer) == [b"a" * 100_000, b"b"]
        await buffer.release_results(JOB, first + 2)
    done.set()
    await looking


async def test_what_is_released_is_gone_and_the_rest_stays(buffer: adapter.Buffer) -> None:
    await buffer.admit_results([(JOB, first, 2, [b"%d" % first, b"more"]) for first in (0, 2, 4)])
    await buffer.release_results(JOB, 4)
    assert await chunks(buffer) == [b"4", b"more"]
    assert await buffer.result_items(JOB) == {4}
    await buffer.release_results(JOB, 6)
    assert await buffer.client.keys("test:*") == []


async def test_a_batch_that_was_dropped_can_be_admitted_again(buffer: adapter.Buffer) -> None:
    await buffer.admit_results([(JOB, 0, 2, [b"whole"])])
    await buffer.drop_batches(JOB, [0])
    await buffer.admit_results([(JOB, 0, 1, [b"half"])])
    assert await chunks(buffer) == [b"half"]


async def test_the_jobs_with_results_are_known(buffer: adapter.Buffer) -> None:
    others = [uuid.UUID(int=n) for n in range(2, 40)]
    await buffer.admit_results([(job_id, 0, 2, [b"a"]) for job_id in (JOB, *others)])
    await buffer.drop_results(others[1:])
    assert set(await buffer.jobs_there()) == {JOB, others[0]}
