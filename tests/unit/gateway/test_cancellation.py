"""Lost cancellations are found again."""

from __future__ import annotations

import asyncio

import pytest

from podium_gateway.app import cancellation


async def test_a_swallowed_cancellation_is_raised_again() -> None:
    started = asyncio.Event()

    async def swallow() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        cancellation.honour()

    task = asyncio.create_task(swallow())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_a_cancellation_nothing_happens() -> None:
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        pass
    cancellation.honour()
