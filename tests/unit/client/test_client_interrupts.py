"""The synchronous client and Ctrl-C."""

import _thread
import asyncio

import pytest

from podium_client import sync


def test_an_interrupt_that_does_not_wake_the_waiting_thread_is_heard_all_the_same() -> None:
    """As when a signal comes just before the thread begins to wait: noted, but nothing ends the wait."""
    loop = sync._Loop()
    cancelled = []

    async def silent() -> None:
        _thread.interrupt_main()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        loop.run(silent())
    loop.close()
    assert cancelled
