"""Who gets which part of the shared memory, and when."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from podium_worker.adapters import arena

PAGE = mmap.PAGESIZE


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[arena.Arena]:
    made = arena.Arena(10 * PAGE)
    yield made
    made.close()


async def turns() -> None:
    """Lets everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_regions_never_overlap_and_all_of_it_can_be_given_out(memory: arena.Arena) -> None:
    offsets = [await memory.allocate(nbytes) for nbytes in (1, PAGE, PAGE + 1, 6 * PAGE)]
    assert offsets == [0, PAGE, 2 * PAGE, 4 * PAGE]
    assert memory.used_bytes == memory.size == 10 * PAGE


async def test_what_is_released_becomes_one_free_region_again(memory: arena.Arena) -> None:
    offsets = [await memory.allocate(2 * PAGE) for _ in range(5)]
    for offset in (offsets[1], offsets[3], offsets[2]):
        memory.release(offset)
    assert await memory.allocate(6 * PAGE) == offsets[1]


async def test_whoever_waits_longest_is_served_first_even_if_a_later_one_would_fit(memory: arena.Arena) -> None:
    first = await memory.allocate(6 * PAGE)
    large = asyncio.create_task(memory.allocate(5 * PAGE))
    await turns()
    small = asyncio.create_task(memory.allocate(PAGE))
    await turns()
    assert not large.done() and not small.done()
    memory.release(first)
    assert (await large, await small) == (0, 5 * PAGE)


async def test_a_waiter_that_leaves_lets_those_behind_it_go_on(memory: arena.Arena) -> None:
    await memory.allocate(6 * PAGE)
    large = asyncio.create_task(memory.allocate(5 * PAGE))
    small = asyncio.create_task(memory.allocate(PAGE))
    await turns()
    large.cancel()
    assert await small == 6 * PAGE
    assert large.cancelled()


async def test_a_waiter_that_leaves_just_as_it_is_served_keeps_nothing(memory: arena.Arena) -> None:
    first = await memory.allocate(10 * PAGE)
    waiter = asyncio.create_task(memory.allocate(10 * PAGE))
    await turns()
    memory.release(first)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert waiter.cancelled()
    assert memory.used_bytes == 0


async def test_what_can_never_fit_is_refused_at_once(memory: arena.Arena) -> None:
    await memory.allocate(10 * PAGE)
    with pytest.raises(ValueError, match="the arena has"):
        await memory.allocate(10 * PAGE + 1)


async def test_a_region_cannot_be_released_twice(memory: arena.Arena) -> None:
    offset = await memory.allocate(PAGE)
    memory.release(offset)
    with pytest.raises(KeyError):
        memory.release(offset)


async def test_random_use_never_gives_a_byte_to_two(memory: arena.Arena) -> None:
    dice = random.Random(1)
    held: dict[int, int] = {}
    for step in range(400):
        if held and dice.random() < 0.5:
            offset = dice.choice(list(held))
            pages = held.pop(offset)
            assert (memory.view(offset, (pages * PAGE,)) == offset // PAGE).all(), step
            memory.release(offset)
            continue
        pages = dice.randint(1, 4)
        try:
            async with asyncio.timeout(0):
                offset = await memory.allocate(pages * PAGE)
        except TimeoutError:
            continue
        held[offset] = pages
        memory.view(offset, (pages * PAGE,))[:] = offset // PAGE
    assert memory.used_bytes == sum(held.values()) * PAGE


async def test_a_child_sees_what_the_front_wrote_and_the_other_way_round(memory: arena.Arena) -> None:
    offset = await memory.allocate(12)
    memory.view(offset, (2, 2, 3))[:] = np.arange(12).reshape(2, 2, 3)
    program = (
        "import sys; from podium_worker.adapters import arena\n"
        "fd, size, offset = map(int, sys.argv[1:])\n"
        "view = arena.open_arena(fd, size).view(offset, (2, 2, 3)); view += 1"
    )
    arguments = [str(number) for number in (memory.fd, memory.size, offset)]
    subprocess.run([sys.executable, "-c", program, *arguments], pass_fds=(memory.fd,), check=True)  # noqa: ASYNC221
    assert memory.view(offset, (12,)).tolist() == list(range(1, 13))


async def test_a_view_stays_inside(memory: arena.Arena) -> None:
    for offset, shape in [(-1, (1,)), (10 * PAGE, (1,)), (0, (10 * PAGE + 1,))]:
        with pytest.raises(ValueError, match="not inside"):
            memory.view(offset, shape)


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="pages are given back on Linux only")
async def test_an_arena_that_has_been_empty_for_a_while_takes_no_memory() -> None:
    memory = arena.Arena(64 * PAGE, linger_s=0.0)
    offset = await memory.allocate(64 * PAGE)
    memory.view(offset, (64 * PAGE,))[:] = 1
    assert os.fstat(memory.fd).st_blocks > 0
    memory.release(offset)
    async with asyncio.timeout(10):
        while os.fstat(memory.fd).st_blocks:  # noqa: ASYNC110
            await asyncio.sleep(0)
    memory.close()


async def test_an_arena_in_use_keeps_its_pages() -> None:
    memory = arena.Arena(2 * PAGE, linger_s=0.0)
    first = await memory.allocate(PAGE)
    memory.view(first, (PAGE,))[:] = 1
    memory.release(first)
    assert await memory.allocate(PAGE) == first
    memory.view(first, (PAGE,))[:] = 2
    await turns()
    assert (memory.view(first, (PAGE,)) == 2).all()
    memory.close()


@pytest_asyncio.fixture
async def reserved() -> AsyncIterator[arena.Arena]:
    """Ten pages, the last two for what is urgent."""
    made = arena.Arena(10 * PAGE, urgent_bytes=2 * PAGE)
    yield made
    made.close()


async def test_what_is_urgent_has_a_place_that_the_rest_cannot_take(reserved: arena.Arena) -> None:
    await reserved.allocate(8 * PAGE)
    behind = asyncio.create_task(reserved.allocate(PAGE))
    await turns()
    assert await reserved.allocate(2 * PAGE, urgent=True) == 8 * PAGE
    assert not behind.done()
    behind.cancel()


async def test_what_is_urgent_may_have_the_rest_too_and_goes_first(reserved: arena.Arena) -> None:
    first = await reserved.allocate(8 * PAGE)
    usual = asyncio.create_task(reserved.allocate(6 * PAGE))
    await turns()
    urgent = asyncio.create_task(reserved.allocate(4 * PAGE, urgent=True))
    await turns()
    assert not urgent.done()
    reserved.release(first)
    assert await urgent == 0
    assert not usual.done()
    reserved.release(0)
    assert await usual == 0


async def test_what_is_larger_than_the_usual_part_has_the_whole_once_it_is_empty(reserved: arena.Arena) -> None:
    small = await reserved.allocate(PAGE)
    large = asyncio.create_task(reserved.allocate(9 * PAGE))
    await turns()
    assert not large.done()
    reserved.release(small)
    assert await large == 0


@pytest.mark.parametrize(
    ("pages", "callers", "size"),
    [(1, 8, 2), (6, 8, 2), (8, 8, 2), (9, 8, 2), (10, 8, 2), (10, 2, 1)],
    ids=["small", "most", "usual", "over", "whole", "whole beside what has its own place"],
)
async def test_those_that_wait_have_their_turn_although_urgent_ones_come_all_the_time(
    reserved: arena.Arena, pages: int, callers: int, size: int
) -> None:
    given: list[int] = []

    async def calls() -> None:
        while not waiting.done() and len(given) < 200:
            offset = await reserved.allocate(size * PAGE, urgent=True)
            given.append(offset)
            await asyncio.sleep(0)
            reserved.release(offset)

    first = await reserved.allocate(8 * PAGE)
    waiting = asyncio.create_task(reserved.allocate(pages * PAGE))
    tasks = [asyncio.create_task(calls()) for _ in range(callers)]
    await turns()
    before = len(given)
    reserved.release(first)
    async with asyncio.timeout(10):
        await waiting
        # Half of the usual part in all, and some that found their own end free meanwhile.
        assert len(given) - before < 40
        reserved.release(waiting.result())
        await asyncio.gather(*tasks)


async def test_both_get_on_while_both_wait_all_the_time(reserved: arena.Arena) -> None:
    pages = {True: 0, False: 0}

    async def ask(number: int, *, urgent: bool) -> None:
        # No call needs more than what is for calls alone.
        size = 1 + number % (2 if urgent else 4)
        while sum(pages.values()) < 4_000:
            offset = await reserved.allocate(size * PAGE, urgent=urgent)
            pages[urgent] += size
            await asyncio.sleep(0)
            reserved.release(offset)

    async with asyncio.timeout(30):
        await asyncio.gather(*(ask(n, urgent=urgent) for n in range(8) for urgent in (True, False)))
    assert pages[False] >= 1_000, "their share of the usual part; the end of it is for the others alone"
    assert pages[True] >= 1_000
    assert reserved.used_bytes == 0


async def test_a_share_of_all_lets_what_is_urgent_go_first_for_ever() -> None:
    memory = arena.Arena(10 * PAGE, call_share=1.0)
    offset = await memory.allocate(10 * PAGE)
    waiting = asyncio.create_task(memory.allocate(PAGE))
    await turns()
    for _ in range(50):
        call = asyncio.create_task(memory.allocate(10 * PAGE, urgent=True))
        await turns()
        memory.release(offset)
        offset = await call
    assert not waiting.done()
    memory.release(offset)
    await waiting
    memory.close()
