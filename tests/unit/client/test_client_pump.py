"""How an embed call waits for its parts: for the one that is next, without looking again and again at the others."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from podium.common.v1 import item_pb2
from podium_client import embedding
from podium_client.feed import PartFeed
from podium_client.parts import JobSpec, Part
from podium_client.retry import Patience, RetryPolicy
from podium_client.rpc import Gateway

STEP_S = 10.0


class _Gateway:
    def patience(self) -> Patience:
        return Patience(RetryPolicy())


class _Feed:
    def __init__(self, count: int) -> None:
        self._left = [Part(n, n, None, item_pb2.TextItems(items=[item_pb2.TextItem(text="a")])) for n in range(count)]

    async def next(self) -> Part | None:
        return self._left.pop(0) if self._left else None


class _Call(embedding.EmbedCall):
    """Parts end when the test says so."""

    def __init__(self, count: int) -> None:
        spec = JobSpec("w", item_pb2.EmbeddingOptions())
        feed, sink = cast(PartFeed, _Feed(count)), cast(Any, None)
        super().__init__(
            cast(Gateway, _Gateway()), spec, feed, sink, window=count, total=count, may_release=False, on_progress=None
        )
        self.begun = 0
        self.all_begun = asyncio.Event()
        self.ends: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.written: list[Any] = []

    async def _run_part(self, part: Part) -> Any:
        self.begun += 1
        if self.begun == len(self.ends):
            self.all_begun.set()
        return await self.ends[part.ordinal]

    async def _write(self, finished: Any) -> None:
        self.written.append(finished)


async def test_a_part_that_is_done_before_its_turn_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    call = _Call(3)
    waits = 0
    wait = asyncio.wait

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*arguments, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    pumping = asyncio.create_task(call._pump())
    async with asyncio.timeout(STEP_S):
        await call.all_begun.wait()
        call.ends[2].set_result(2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert waits <= 8
        call.ends[0].set_result(0)
        call.ends[1].set_result(1)
        await pumping
    assert call.written == [0, 1, 2]


async def test_a_part_that_fails_before_its_turn_ends_the_call() -> None:
    call = _Call(2)
    pumping = asyncio.create_task(call._pump())
    async with asyncio.timeout(STEP_S):
        await call.all_begun.wait()
        call.ends[1].set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await pumping
    assert call.written == []
