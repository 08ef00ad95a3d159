"""The queue with two lanes."""

from __future__ import annotations

import asyncio

import pytest

from podium_runtime import two_lanes


async def test_what_is_urgent_goes_first_and_each_lane_keeps_its_order() -> None:
    queue: two_lanes.TwoLanes[str] = two_lanes.TwoLanes()
    for name in ("a", "b"):
        queue.put_nowait(name)
    for name in ("x", "y"):
        queue.urge(name)
    assert queue.qsize() == 4
    assert [queue.get_nowait() for _ in range(4)] == ["x", "y", "a", "b"]
    assert queue.empty()
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


async def test_items_need_not_be_comparable_and_who_waits_is_woken() -> None:
    queue: two_lanes.TwoLanes[object | None] = two_lanes.TwoLanes()
    waiting = asyncio.create_task(queue.get())
    first = object()
    queue.urge(first)
    queue.urge(None)
    async with asyncio.timeout(5):
        assert await waiting is first
    assert queue.get_nowait() is None
