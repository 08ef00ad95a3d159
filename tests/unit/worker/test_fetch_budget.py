"""Shares of what is scarce, and pauses."""

from __future__ import annotations

import asyncio

import pytest

from podium_worker.adapters.fetch import budget, retries


async def settled() -> None:
    """Lets every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served_whatever_the_size() -> None:
    memory = budget.Budget(10)
    first = await memory.take(8)
    order: list[int] = []

    async def want(units: int) -> None:
        share = await memory.take(units)
        order.append(units)
        share.release()

    waiting = [asyncio.create_task(want(units)) for units in (10, 1, 2)]
    await settled()
    assert order == []
    first.release()
    await asyncio.gather(*waiting)
    assert order == [10, 1, 2]
    assert memory.idle


async def test_a_cancelled_waiter_leaves_nothing_behind_and_lets_the_next_go_on() -> None:
    memory = budget.Budget(10)
    held = await memory.take(5)
    large, small = asyncio.create_task(memory.take(10)), asyncio.create_task(memory.take(5))
    await settled()
    large.cancel()
    share = await asyncio.wait_for(small, 5)
    share.release()
    held.release()
    assert memory.idle


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_in_the_moment_in_which_its_turn_comes(cancel_first: bool) -> None:
    memory = budget.Budget(1)
    held = await memory.take(1)
    waiter = asyncio.create_task(memory.take(1))
    await settled()
    if cancel_first:
        waiter.cancel()
        held.release()
    else:
        held.release()
        waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert memory.idle


async def test_a_share_is_given_back_once() -> None:
    scarce = budget.Budget(10)
    share = await scarce.take(10)
    share.release()
    share.release()
    assert scarce.idle


async def test_more_than_there_is_is_an_error() -> None:
    with pytest.raises(ValueError):
        await budget.Budget(1).take(2)


async def test_who_waits_for_its_host_holds_nobody_else_up() -> None:
    turns = budget.Turns(total=2, per_host=1)
    release = asyncio.Event()
    running: list[str] = []

    async def request(host: str) -> None:
        async with turns.turn(host):
            running.append(host)
            await release.wait()

    tasks = [asyncio.create_task(request(host)) for host in ("slow", "slow", "slow", "other")]
    await settled()
    assert running == ["slow", "other"]
    release.set()
    await asyncio.gather(*tasks)
    assert turns.idle


async def test_cancelled_requests_free_their_turns() -> None:
    turns = budget.Turns(total=1, per_host=1)

    async def request(host: str) -> None:
        async with turns.turn(host):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(request(host)) for host in ("a", "a", "b")]
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert turns.idle


@pytest.mark.parametrize(
    ("failures", "dice", "retry_after", "pause"),
    [
        (1, 0.0, None, 0.0),
        (1, 0.5, None, 0.5),
        (2, 0.5, None, 1.0),
        (9, 0.5, None, 4.0),
        (1, 0.5, 3.0, 3.5),
        (1, 0.5, 8.0, 8.0),
        (1, 0.5, 9.0, None),
    ],
)
def test_pauses(failures: int, dice: float, retry_after: float | None, pause: float | None) -> None:
    assert retries.pause_s(failures, dice, base_s=1, cap_s=8, retry_after_s=retry_after) == pause


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("7", None, 7.0),
        ("-7", None, None),
        ("soon", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:05 GMT", None, None),
        ("Wed, 21 Oct 2026 07:28:05 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 5.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("9" * 400, None, float("inf")),
    ],
)
def test_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    assert retries.retry_after_s(value, date) == seconds
