"""Which app a token stands for: the scheduler's answer, remembered for a while.

A good token costs one call to the scheduler every `ttl`; a bad one is refused from memory for a few seconds,
so that a client with a stale token cannot load the ledger. Tokens are kept as SHA-256 only.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from podium_gateway.app import ports
from podium_runtime import clock, errors


@dataclass(frozen=True, slots=True)
class _Answer:
    app_id: str | None
    until: float


class TokenCache:
    """Resolves app tokens. Times are in seconds; at most `capacity` answers are kept, the least used go
    first."""

    def __init__(
        self,
        apps: ports.Apps,
        time: clock.Clock,
        meter: ports.Meter,
        *,
        max_ttl_s: float,
        negative_ttl_s: float,
        capacity: int,
    ) -> None:
        self._apps = apps
        self._clock = time
        self._meter = meter
        self._max_ttl_s = max_ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._capacity = capacity
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()

    async def verify(self, token: str) -> str:
        """The app id. Raises errors.Unauthenticated, Unavailable."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._answers.get(digest)
        if known is None or known.until <= self._clock.monotonic():
            self._meter.authenticated("miss")
            known = await self._ask(digest)
        else:
            self._meter.authenticated("hit" if known.app_id else "negative_hit")
            self._answers.move_to_end(digest)
        if known.app_id is None:
            raise errors.Unauthenticated("this token is not known, or was revoked", reason="UNKNOWN_TOKEN")
        return known.app_id

    async def _ask(self, digest: bytes) -> _Answer:
        try:
            app_id, ttl_s = await self._apps.authenticate(digest)
            answer = _Answer(app_id, self._clock.monotonic() + min(ttl_s, self._max_ttl_s))
        except errors.Unauthenticated:
            answer = _Answer(None, self._clock.monotonic() + self._negative_ttl_s)
        self._answers[digest] = answer
        self._answers.move_to_end(digest)
        while len(self._answers) > self._capacity:
            self._answers.popitem(last=False)
        return answer
