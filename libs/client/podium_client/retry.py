"""When to try again, and for how long.

Promise: a call that failed because the service was away or full is repeated with jittered, growing pauses
until `retry_for_s` seconds have passed without any progress; before the first contact with the service the
shorter `connect_for_s` holds, so that a wrong address is told at once. A try that lasted for long is progress, too: a
stream with nothing to say was not without the service. The clock is the process's monotonic one and can be replaced.
RetryInfo from the service is a lower bound for the pause.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from podium_client.errors import decode_details, from_rpc_error

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses in seconds: `first_pause_s` growing by `growth` to `longest_pause_s`, each scaled by 0.5 to
    1.5."""

    connect_for_s: float = 10.0
    retry_for_s: float = 300.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0
    growth: float = 2.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = random.random


# No connection takes this long to be refused: a try that fails later than this had reached the service.
_CONNECTED_AFTER_S = 30.0
_FULL = "BUFFER_FULL"
# A stream that a proxy or a dying server cuts ends with one of these texts and no better code. The last is what
# grpc.aio puts in place of the server's own status when a write of ours and the end of the stream cross
# (github.com/grpc/grpc/issues/36066): the next try is told what the server said, or goes on.
_CUT_STREAM = ("RST_STREAM", "Stream removed", "GOAWAY", "Internal error from Core")


def is_retryable(error: grpc.RpcError) -> bool:
    """UNAVAILABLE; CANCELLED by the other side; RESOURCE_EXHAUSTED with RetryInfo (without, a message was too large);
    a stream cut in transit."""
    code = error.code() if hasattr(error, "code") else None
    # CANCELLED is what a server says of calls that outlast its grace when it ends; our own cancellations are raised as
    # asyncio.CancelledError. Every call of ours may be made twice.
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return True
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return decode_details(error).retry_after_s is not None
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        text = error.details() or ""
        return any(sign in text for sign in _CUT_STREAM)
    return False


@dataclass(slots=True)
class Patience:
    """Patience of one activity (a call, or all the calls of one embed_texts): renewed by every progress."""

    policy: RetryPolicy
    contacted: bool = False
    on_full: Callable[[], Awaitable[None]] | None = None
    """Called when the service refuses work because unread results fill it up; may make room."""
    _since: float = field(init=False)
    _tried_at: float = field(init=False)
    _pause: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self._tried_at = self.policy.now()
        self._pause = self.policy.first_pause_s

    def progress(self) -> None:
        """Something came from the service: full patience again."""
        self.contacted = True
        self._since = self._tried_at = self.policy.now()
        self._pause = self.policy.first_pause_s

    async def wait(self, error: grpc.RpcError) -> None:
        """Pause before the next try, or raise the typed error when it is not retryable or patience has
        ended."""
        if not is_retryable(error):
            raise from_rpc_error(error) from error
        if self.policy.now() - self._tried_at >= _CONNECTED_AFTER_S:
            self.progress()
        details = decode_details(error)
        # A status with details was written by Podium itself, so the address is right.
        self.contacted = self.contacted or not details.empty
        allowed = self.policy.retry_for_s if self.contacted else self.policy.connect_for_s
        pause = max(self._pause * (0.5 + self.policy.dice()), details.retry_after_s or 0.0)
        if self.policy.now() + pause - self._since > allowed:
            raise from_rpc_error(error) from error
        self._pause = min(self._pause * self.policy.growth, self.policy.longest_pause_s)
        if details.reason == _FULL and self.on_full is not None:
            await self.on_full()
        await self.policy.sleep(pause)
        self._tried_at = self.policy.now()


async def call(patience: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run one unary call until it succeeds; PodiumError when it cannot."""
    while True:
        try:
            result = await attempt()
        except grpc.RpcError as error:
            await patience.wait(error)
            continue
        patience.progress()
        return result
