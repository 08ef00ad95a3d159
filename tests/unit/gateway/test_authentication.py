"""The cache of tokens, on a clock that stands still."""

from __future__ import annotations

import hashlib

import pytest

from podium_gateway.app import authentication
from podium_runtime import clock, errors


class Apps:
    """Knows the token `good`; counts its calls."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False

    async def authenticate(self, token_sha256: bytes) -> tuple[str, float]:
        self.asked += 1
        if self.down:
            raise errors.Unavailable("away")
        if token_sha256 != hashlib.sha256(b"good").digest():
            raise errors.Unauthenticated("unknown")
        return "app", 30.0


class Meter:
    """Notes outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def admitted(self, items: int, batches: int) -> None: ...

    def relayed(self, size: int) -> None: ...

    def ack_ignored(self) -> None: ...

    def authenticated(self, outcome: str) -> None:
        self.outcomes.append(outcome)


class Rig:
    def __init__(self, capacity: int = 10) -> None:
        self.apps, self.clock, self.meter = Apps(), clock.FakeClock(), Meter()
        self.cache = authentication.TokenCache(
            self.apps, self.clock, self.meter, max_ttl_s=20.0, negative_ttl_s=3.0, capacity=capacity
        )


async def test_a_good_token_is_trusted_for_the_shorter_of_both_spans() -> None:
    rig = Rig()
    for at in (0.0, 19.9, 0.2):
        rig.clock.advance(at)
        assert await rig.cache.verify("good") == "app"
    assert rig.apps.asked == 2
    assert rig.meter.outcomes == ["miss", "hit", "miss"]


async def test_a_bad_token_is_refused_from_memory_for_a_while() -> None:
    rig = Rig()
    for at in (0.0, 2.9, 0.2):
        rig.clock.advance(at)
        with pytest.raises(errors.Unauthenticated):
            await rig.cache.verify("bad")
    assert rig.apps.asked == 2
    assert rig.meter.outcomes == ["miss", "negative_hit", "miss"]


async def test_no_answer_is_not_remembered() -> None:
    rig = Rig()
    rig.apps.down = True
    with pytest.raises(errors.Unavailable):
        await rig.cache.verify("good")
    rig.apps.down = False
    assert await rig.cache.verify("good") == "app"


async def test_the_least_used_answers_go_first() -> None:
    rig = Rig(capacity=2)
    await rig.cache.verify("good")
    for stranger in ("x", "y"):
        with pytest.raises(errors.Unauthenticated):
            await rig.cache.verify(stranger)
        await rig.cache.verify("good")
    assert rig.apps.asked == 3
    with pytest.raises(errors.Unauthenticated):
        await rig.cache.verify("x")
    assert rig.apps.asked == 4
