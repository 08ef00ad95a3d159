"""Memory of bodies that grow, as they ask for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from podium_worker.adapters.fetch import memory

KIB = 1024
STEP = 128 * KIB
DEADLINE_S = 20.0


async def settled() -> None:
    """Lets every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_body_holds_what_it_has_come_to_and_not_what_may_come() -> None:
    store = memory.Memory(10 * STEP)
    slow = [store.room(8 * STEP) for _ in range(2)]
    for room in slow:
        await room.grow(1)
    assert store.free == 8 * STEP
    quick = store.room(2 * STEP)
    for nbytes in (1, STEP + 1):
        await asyncio.wait_for(quick.grow(nbytes), DEADLINE_S)
    for room in (*slow, quick):
        room.release()
    assert store.idle


async def test_nothing_is_lent_that_would_leave_all_of_them_waiting() -> None:
    store = memory.Memory(4 * STEP)
    first, second = store.room(4 * STEP), store.room(4 * STEP)
    await first.grow(STEP)
    waiting = asyncio.create_task(second.grow(STEP))
    await settled()
    assert not waiting.done(), "neither could come to its limit"
    await asyncio.wait_for(first.grow(4 * STEP), DEADLINE_S)
    first.settle(2 * STEP)
    await asyncio.wait_for(waiting, DEADLINE_S)
    first.release()
    second.release()
    assert store.idle


async def test_who_would_endanger_the_others_is_passed() -> None:
    store = memory.Memory(4 * STEP)
    slow, large, small = store.room(4 * STEP), store.room(4 * STEP), store.room(STEP)
    await slow.grow(1)
    waiting = asyncio.create_task(large.grow(1))
    await settled()
    await asyncio.wait_for(small.grow(STEP), DEADLINE_S)
    assert not waiting.done()
    small.release()
    slow.release()
    await asyncio.wait_for(waiting, DEADLINE_S)
    large.release()
    assert store.idle


async def test_small_ones_do_not_take_what_an_older_one_will_have_when_others_are_done() -> None:
    store = memory.Memory(4 * STEP)
    whole = [store.room(STEP) for _ in range(4)]
    for room in whole:
        await room.grow(STEP)
        room.settle(STEP)
    order: list[str] = []

    async def want(name: str, room: memory.Room, nbytes: int) -> None:
        await room.grow(nbytes)
        order.append(name)

    older, younger = store.room(2 * STEP), store.room(KIB)
    tasks = [asyncio.create_task(want("older", older, 2 * STEP)), asyncio.create_task(want("younger", younger, KIB))]
    await settled()
    whole[0].release()
    await settled()
    assert order == []
    for room in whole:
        room.release()
    await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
    assert order == ["older", "younger"]
    for room in (older, younger):
        room.release()
    assert store.idle


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_in_the_moment_in_which_its_turn_comes(cancel_first: bool) -> None:
    store = memory.Memory(STEP)
    held, room, last = store.room(STEP), store.room(STEP), store.room(STEP)
    await held.grow(STEP)
    waiter, next_one = asyncio.create_task(room.grow(STEP)), asyncio.create_task(last.grow(STEP))
    await settled()
    if cancel_first:
        waiter.cancel()
        held.release()
    else:
        held.release()
        waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    room.release()
    await asyncio.wait_for(next_one, DEADLINE_S)
    last.release()
    assert store.idle


async def test_what_is_not_needed_is_given_back_once() -> None:
    store = memory.Memory(10)
    room = store.room(10)
    await room.grow(1)
    room.settle(4)
    assert (store.free, room.units) == (6, 4)
    room.release()
    room.release()
    assert store.idle


async def test_more_than_there_is_is_an_error() -> None:
    with pytest.raises(ValueError):
        memory.Memory(1).room(2)
    room = memory.Memory(2).room(1)
    with pytest.raises(ValueError):
        await room.grow(2)


@pytest.mark.parametrize("seed", range(20))
async def test_all_come_to_their_end_whatever_they_ask_for(seed: int) -> None:
    dice = random.Random(seed)
    store = memory.Memory(20 * STEP)
    turns = asyncio.Semaphore(8)

    async def body() -> None:
        async with turns:
            limit = dice.choice([KIB, 3 * STEP, 10 * STEP, 20 * STEP])
            end = dice.randint(1, limit)
            room = store.room(limit)
            try:
                nbytes = 0
                while nbytes < end:
                    nbytes = min(end, nbytes + dice.randint(1, STEP))
                    await room.grow(nbytes)
                    assert nbytes <= room.units <= limit
                    assert store.free >= 0
                    if dice.random() < 0.3:
                        await asyncio.sleep(0)
                if dice.random() < 0.7:
                    room.settle(end)
                    await asyncio.sleep(0)
            finally:
                room.release()

    tasks = [asyncio.create_task(body()) for _ in range(60)]
    for task in dice.sample(tasks, 10):
        asyncio.get_running_loop().call_later(dice.random() / 50, task.cancel)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert store.idle
