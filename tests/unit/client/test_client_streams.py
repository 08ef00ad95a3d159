"""Result streams that break: what the caller sees is each item once, in order, whatever is sent again."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import google_crc32c
import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import job_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_client.errors import ProtocolError
from podium_client.streams import ResultStream

ITEMS = 12


class Broken(grpc.RpcError):
    """The connection is gone."""


class Call:
    """Some messages, then the end or a break."""

    def __init__(self, responses: Sequence[gateway_pb2.StreamResultsResponse], *, breaks: bool) -> None:
        self._responses = responses
        self._breaks = breaks

    async def __aiter__(self) -> AsyncIterator[gateway_pb2.StreamResultsResponse]:
        for response in self._responses:
            yield response
        if self._breaks:
            raise Broken

    def cancel(self) -> None: ...


class Service:
    """Sends whatever is next in its script, wherever the caller wants to begin; and is as patient as one can be."""

    endpoint = "here"

    def __init__(self, *calls: Call) -> None:
        self._calls = list(calls)

    def open_results(self, job_id: str, after: str, resume: str) -> Call:
        return self._calls.pop(0)

    def progress(self) -> None: ...

    async def wait(self, error: grpc.RpcError) -> None: ...

    async def seen(self) -> list[int]:
        """The items that the caller gets, by the vectors it gets for them."""
        any_service: Any = self
        stream = ResultStream(any_service, "job", patience=any_service)
        found: list[int] = []
        async for chunk in stream.chunks():
            assert chunk.first_item == len(found)
            found += [int(row[0]) for row in chunk.vectors]
        return found


def chunk(first: int, end: int) -> gateway_pb2.StreamResultsResponse:
    vectors = np.arange(first, end, dtype="<f4").tobytes()
    made = result_pb2.ResultChunk(
        first_item=first,
        item_count=end - first,
        count=end - first,
        dimension=1,
        dtype=workload_pb2.DTYPE_FLOAT32,
        vectors=vectors,
        crc32c=google_crc32c.value(vectors),
    )
    return gateway_pb2.StreamResultsResponse(chunk=made, cursor=str(end))


def cut(bounds: Sequence[int]) -> list[gateway_pb2.StreamResultsResponse]:
    return [chunk(a, b) for a, b in itertools.pairwise(bounds)]


def end() -> gateway_pb2.StreamResultsResponse:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_COMPLETED, progress=job_pb2.JobProgress(items_total=ITEMS))
    return gateway_pb2.StreamResultsResponse(end=gateway_pb2.StreamEnd(job=job), cursor="end")


async def test_a_part_that_is_sent_again_cut_otherwise_is_seen_once() -> None:
    service = Service(Call(cut([0, 5, 8]), breaks=True), Call([*cut([0, 4, 10, 12]), end()], breaks=False))
    assert await service.seen() == list(range(ITEMS))


BOUNDS = st.sets(st.integers(1, ITEMS - 1)).map(lambda inner: [0, *sorted(inner), ITEMS])


@given(st.lists(st.tuples(BOUNDS, st.integers(0, ITEMS)), max_size=4), BOUNDS)
async def test_any_breaks_and_any_cuts_give_each_item_once(
    breaks: list[tuple[list[int], int]], last: list[int]
) -> None:
    calls = [Call(cut(bounds)[:sent], breaks=True) for bounds, sent in breaks]
    assert await Service(*calls, Call([*cut(last), end()], breaks=False)).seen() == list(range(ITEMS))


async def test_a_gap_is_refused() -> None:
    with pytest.raises(ProtocolError, match="items 5 to 7 are missing"):
        await Service(Call([chunk(0, 5), chunk(8, 12), end()], breaks=False)).seen()


async def test_an_end_that_comes_too_soon_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ended at item 5 of 12"):
        await Service(Call([chunk(0, 5), end()], breaks=False)).seen()
