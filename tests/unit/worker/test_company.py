"""The company of a batch: what it counts as the time of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from podium_worker.app import backend
from podium_worker.domain import pace, riding, shares
from podium_worker.executor import calls, company, turns

KIND: calls.Kind = ("w", 1, False)


class _Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class _Call:
    kind = KIND
    alone = False


class _Calls:
    """Those that wait are one row each, and take a while to be made ready."""

    heard_at = 0.0

    def __init__(self, clock: _Clock, loaded: Any, ready_s: float) -> None:
        self._clock = clock
        self._loaded = loaded
        self._ready_s = ready_s
        self.sent: list[tuple[float, float]] = []
        self._pace = pace.Pace()
        for size in (1, 2, 4, 8):
            self._pace.observe(size, 1.0, clock.now)

    def pace(self, kind: calls.Kind) -> pace.Pace:
        return self._pace

    def select(self, waiting: Sequence[Any]) -> list[Any]:
        return list(waiting)

    def ready(self, together: Sequence[Any]) -> calls.Turn:
        self._clock.now += self._ready_s
        parts = [calls.Part(call, cast(Any, None), (), row, row + 1) for row, call in enumerate(together)]
        return calls.Turn(self._loaded, parts, backend.Prepared(None, len(parts)))

    def examined(self, turn: Any, part: Any, computed: Any) -> Any:
        return type("Examined", (), {"not_finite": False})

    def send(self, turn: Any, part: Any, examined: Any, began: float, seconds: float) -> None:
        self.sent.append((began, seconds))


def test_no_moment_is_counted_twice_as_the_time_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA a micro-batch is boarded, and calls made ready for it, while the one before it is computed."""
    clock, loaded = _Clock(), cast(Any, object())
    monkeypatch.setattr(company, "time", clock)
    share = shares.Share(1.0)
    waiting: turns.Turns[Any, Any] = turns.Turns(2, share)
    served = _Calls(clock, loaded, ready_s=5.0)
    beside = company.Company(cast(Any, served), waiting, KIND, loaded, riding.Limits())
    began = clock.now
    for _ in range(2):
        waiting.call(_Call())
        assert beside.board(1, 100, 8).riders is not None
    for _ in range(2):
        clock.now += 1.0
        beside.landed(2, 1, np.zeros((1, 4), np.float32))
    # Made ready twice, and half of the two seconds since.
    assert waiting.calls_s == pytest.approx(11.0)
    assert waiting.calls_s <= clock.now - began
    assert [seconds for _, seconds in served.sent] == [0.5, 0.5]


def test_texts_without_a_token_have_a_size() -> None:
    turn = calls.Turn(cast(Any, None), (), backend.Prepared(None, 3, sizes=[0, 0, 0]))
    assert turn.size == 3
    assert calls.Turn(cast(Any, None), (), backend.Prepared(None, 3)).size == 3
    assert calls.Turn(cast(Any, None), (), None).size == 0
