"""Cancellations that got lost on the way."""

from __future__ import annotations

import asyncio


def honour() -> None:
    """Raises asyncio.CancelledError when the current task was cancelled and something swallowed that.

    redis-py sends with asyncio.wait_for, which before Python 3.12 loses a cancellation that arrives together with
    the result (https://github.com/python/cpython/issues/86296). A stream that waits must not outlive its client.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
