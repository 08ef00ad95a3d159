"""Bytes of the requests that this gateway has in hand, whoever sent them: what bounds its memory.

An app's own limits bound what one app takes, and there may be any number of apps. A request that comes while others
leave no room for it is refused, with the time after which to try again; one alone is always taken, for no message is
larger than gRPC lets in. One event loop, no clock.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from podium_runtime import errors

REASON = "GATEWAY_BUSY"
"""Of a refusal."""


class InHand:
    """Requests of one kind."""

    def __init__(self, most: int, *, retry_after_s: float) -> None:
        """`most`: bytes of all of them together. `retry_after_s`: what a refusal says."""
        self.most = most
        self.nbytes = 0
        self._retry_after_s = retry_after_s

    def share(self) -> Share:
        """Of one request, nothing yet."""
        return Share(self)

    def grow(self, share: Share, nbytes: int) -> None:
        """See Share."""
        if self.nbytes > share.nbytes and self.nbytes + nbytes > self.most:
            raise errors.ResourceExhausted(
                f"this gateway has requests of {self.nbytes:,} bytes in hand and takes {self.most:,}",
                reason=REASON,
                retry_after_s=self._retry_after_s,
            )
        self.nbytes += nbytes
        share.nbytes += nbytes


class Share:
    """What one request takes; given back at the end of the `with` block."""

    __slots__ = ("_all", "nbytes")

    def __init__(self, all_of_them: InHand) -> None:
        self._all = all_of_them
        self.nbytes = 0

    def grow(self, nbytes: int) -> None:
        """So much more has come. Raises errors.ResourceExhausted when there is no room for it beside the others."""
        self._all.grow(self, nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.nbytes -= self.nbytes
        self.nbytes = 0
