"""Many texts as one answer: order, all or none, and how a request makes do with less room."""

from __future__ import annotations

import asyncio
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import callers, embed_texts, ports, workloads
from podium_gateway.domain import requests
from podium_runtime import clock, errors
from tests.support import http_edge
from tests.support.http_edge import Lane, vector_of

CALLER = callers.Caller("app-a")
NO_OPTIONS = requests.Options()


def use_case(lane: Lane, time: clock.Clock | None = None) -> embed_texts.EmbedTexts:
    time = time or clock.SystemClock()
    return embed_texts.EmbedTexts(lane, workloads.Registry(cast(ports.Ledger, lane), time), time)


def rows(vectors: embed_texts.Vectors) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.frombuffer(b"".join(vectors.pieces), dtype="<f4").reshape(-1, vectors.dimension)


@given(count=st.integers(1, 700), room=st.none() | st.integers(1, 5))
def test_rows_are_in_order_whatever_room_there_is(count: int, room: int | None) -> None:
    lane, texts = Lane(room=room), [f"text {n}" for n in range(count)]
    vectors = asyncio.run(use_case(lane)(CALLER, "texts", texts, NO_OPTIONS))
    assert np.array_equal(rows(vectors), [vector_of(text) for text in texts])
    assert vectors.token_count == 4 * count
    assert lane.most_at_once <= min(room or 4, 4)
    assert all(len(http_edge.texts_of(request)) <= 64 for _, request in lane.calls)


async def test_large_texts_make_small_calls() -> None:
    lane, texts = Lane(), ["x" * 100_000] * 30
    await use_case(lane)(CALLER, "texts", texts, NO_OPTIONS)
    assert [len(http_edge.texts_of(request)) for _, request in lane.calls] == [10, 10, 10]


async def test_a_request_that_has_no_room_at_all_is_refused_once() -> None:
    lane = Lane(room=0)
    with pytest.raises(errors.ResourceExhausted) as refused:
        await use_case(lane)(CALLER, "texts", ["a"] * 640, NO_OPTIONS)
    assert refused.value.reason == "APP_EMBED_LIMIT"
    assert len(lane.calls) == 4


async def test_a_call_that_nobody_is_left_to_try_again_is_the_answer() -> None:
    class Full(Lane):
        """Takes the first call; the second is refused when that has ended."""

        first_ended = asyncio.Event()

        async def __call__(
            self, caller: callers.Caller, request: gateway_pb2.EmbedRequest
        ) -> gateway_pb2.EmbedResponse:
            if len(request.texts.items) == 64:
                answer = await super().__call__(caller, request)
                asyncio.get_running_loop().call_soon(self.first_ended.set)
                return answer
            await self.first_ended.wait()
            raise errors.ResourceExhausted("no room")

    with pytest.raises(errors.ResourceExhausted):
        await asyncio.wait_for(use_case(Full())(CALLER, "texts", ["a"] * 65, NO_OPTIONS), 5)


async def test_the_first_failure_ends_the_other_calls_and_is_the_answer() -> None:
    lane = Lane(gate=asyncio.Event())
    lane.refusals.append(errors.Unavailable("no worker", reason="NO_WARM_WORKER", retry_after_s=7))
    with pytest.raises(errors.Unavailable) as failed:
        await use_case(lane)(CALLER, "texts", ["a"] * 640, NO_OPTIONS)
    assert (failed.value.reason, failed.value.retry_after_s) == ("NO_WARM_WORKER", 7)
    assert len(lane.calls) == 4 and lane.at_once == 0


async def test_what_a_call_says_of_its_own_texts_is_said_of_all_texts() -> None:
    lane = Lane()
    bad = errors.Violation("texts.items[3].text", "is bad")
    lane.refusals.append(errors.InvalidArgument([bad], reason="WHY"))
    with pytest.raises(errors.InvalidArgument) as refused:
        await use_case(lane)(CALLER, "texts", ["a"] * 10, NO_OPTIONS)
    assert refused.value.violations == (bad,)
    lane = Lane(bad_texts=frozenset({"bad"}))
    with pytest.raises(errors.InvalidArgument) as refused:
        await use_case(lane)(CALLER, "texts", [*["a"] * 200, "bad"], NO_OPTIONS)
    assert [v.field for v in refused.value.violations] == ["texts.items[200].text"]
    assert refused.value.reason == "EMPTY_INPUT"


@pytest.mark.parametrize(
    ("texts", "options", "fields"),
    [
        (["a", "", "b", ""], NO_OPTIONS, ["texts.items[1].text", "texts.items[3].text"]),
        (["a"], requests.Options(dimensions=3), ["options.dimensions"]),
        (["a"], requests.Options(input_type=9), ["options.input_type"]),
    ],
)
async def test_nothing_is_asked_for_while_something_is_bad(
    texts: list[str], options: requests.Options, fields: list[str]
) -> None:
    lane = Lane()
    with pytest.raises(errors.InvalidArgument) as refused:
        await use_case(lane)(CALLER, "texts", texts, options)
    assert [v.field for v in refused.value.violations] == fields
    assert lane.calls == []


async def test_options_go_along() -> None:
    lane = Lane()
    vectors = await use_case(lane)(CALLER, "texts", ["a"] * 65, requests.Options(input_type=1, dimensions=2))
    assert vectors.dimension == 2
    sent = [http_edge.options_of(request) for _, request in lane.calls]
    assert [(o.input_type, o.dimensions) for o in sent] == [(workload_pb2.INPUT_TYPE_QUERY, 2)] * 2


async def test_an_answer_to_something_else_is_never_passed_on() -> None:
    class Odd(Lane):
        async def __call__(
            self, caller: callers.Caller, request: gateway_pb2.EmbedRequest
        ) -> gateway_pb2.EmbedResponse:
            answer = await super().__call__(caller, request)
            answer.chunk.vectors = answer.chunk.vectors[:-4]
            return answer

    with pytest.raises(errors.Internal):
        await use_case(Odd())(CALLER, "texts", ["a"], NO_OPTIONS)


async def test_vectors_of_two_revisions_are_never_one_answer() -> None:
    class Rolling(Lane):
        """After its first call, another revision answers."""

        async def __call__(
            self, caller: callers.Caller, request: gateway_pb2.EmbedRequest
        ) -> gateway_pb2.EmbedResponse:
            calls_before = len(self.calls)
            answer = await super().__call__(caller, request)
            answer.chunk.provenance.revision = "new" if calls_before else "old"
            return answer

    lane = Rolling()
    with pytest.raises(errors.Unavailable) as refused:
        await use_case(lane)(CALLER, "texts", ["a"] * 65, NO_OPTIONS)
    assert refused.value.reason == "WORKLOAD_CHANGED"
    assert len((await use_case(lane)(CALLER, "texts", ["a"] * 65, NO_OPTIONS)).pieces) == 2


def cold(retry_after_s: float) -> errors.Unavailable:
    return errors.Unavailable("no worker has it loaded", reason="NO_WARM_WORKER", retry_after_s=retry_after_s)


class Loading(Lane):
    """No worker has the model until `ends_s` by the clock; callers are told what is left of `expected_s`."""

    def __init__(self, time: clock.Clock, ends_s: float, expected_s: float) -> None:
        super().__init__()
        self._clock, self._ends_s, self._expected_s = time, ends_s, expected_s

    async def __call__(self, caller: callers.Caller, request: gateway_pb2.EmbedRequest) -> gateway_pb2.EmbedResponse:
        now = self._clock.monotonic()
        if now < self._ends_s:
            self.refusals.append(cold(max(1.0, self._expected_s - now)))
        return await super().__call__(caller, request)


async def answered(lane: Lane, time: clock.FakeClock, request_s: float) -> embed_texts.Vectors:
    """Of a request that has so long, while time passes."""
    caller = callers.Caller("app-a", lambda: request_s - time.monotonic())
    asked = asyncio.create_task(use_case(lane, time)(caller, "texts", ["a"], NO_OPTIONS))
    async with asyncio.timeout(5):
        while not await http_edge.is_done(asked):
            time.advance(embed_texts.LOOK_AGAIN_S)
    return await asked


@pytest.mark.parametrize(("ends_s", "expected_s"), [(40.0, 40.0), (58.0, 58.0), (50.0, 20.0), (5.0, 40.0), (0.5, 1.0)])
async def test_a_model_that_will_be_loaded_in_time_is_waited_for(ends_s: float, expected_s: float) -> None:
    """Be it late or early."""
    time = clock.FakeClock()
    lane = Loading(time, ends_s, expected_s)
    assert np.array_equal(rows(await answered(lane, time, 60.0)), [vector_of("a")])
    assert ends_s <= time.monotonic() <= ends_s + 3 * embed_texts.LOOK_AGAIN_S


async def test_a_load_that_does_not_end_is_waited_for_as_long_as_the_request_has() -> None:
    time = clock.FakeClock()
    with pytest.raises(errors.Unavailable):
        await answered(Loading(time, ends_s=100.0, expected_s=40.0), time, 60.0)
    assert 58.0 <= time.monotonic() <= 60.0


async def test_bad_news_of_a_load_is_told_at_once() -> None:
    """As when the worker that loaded it is gone, and a pod has to be rented."""
    time, lane = clock.FakeClock(), Lane()
    lane.refusals.extend([cold(40.0), cold(130.0)])
    with pytest.raises(errors.Unavailable) as refused:
        await answered(lane, time, 60.0)
    assert refused.value.retry_after_s == 130.0
    assert time.monotonic() <= 2 * embed_texts.LOOK_AGAIN_S


@pytest.mark.parametrize(("remaining_s", "retry_after_s"), [(10.0, 11.0), (0.4, 0.1), (None, 1.0)])
async def test_a_model_that_will_not_is_told_of_at_once(remaining_s: float | None, retry_after_s: float) -> None:
    lane = Lane()
    lane.refusals.append(cold(retry_after_s))
    caller = callers.Caller("app-a", lambda: remaining_s)
    with pytest.raises(errors.Unavailable) as refused:
        await use_case(lane, clock.FakeClock())(caller, "texts", ["a"], NO_OPTIONS)
    assert refused.value.retry_after_s == retry_after_s
    assert len(lane.calls) == 1
