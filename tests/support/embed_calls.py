"""Interactive calls for tests of the whole system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from podium.common.v1 import item_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_runtime import errors, statuses
from tests.support import stack

METADATA = (("authorization", f"Bearer {stack.APP_TOKEN}"),)
WARM_S = 60.0
# Between two looks; RetryInfo is for people and clients, and a test need not wait so long.
_LOOK_S = 0.1


class Caller:
    """Calls Embed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = gateway_pb2_grpc.GatewayServiceStub(channel)

    def begin(self, texts: Sequence[str], workload: str = "hash-384", timeout_s: float | None = 20.0) -> Any:
        """The call itself, under way once it is awaited."""
        items = [item_pb2.TextItem(text=text, key=f"k{n}") for n, text in enumerate(texts)]
        request = gateway_pb2.EmbedRequest(workload=workload, texts=item_pb2.TextItems(items=items))
        return self._stub.Embed(request, metadata=METADATA, timeout=timeout_s)

    async def images(self, items: Sequence[item_pb2.ImageItem], workload: str) -> gateway_pb2.EmbedResponse:
        """Raises errors.PodiumError."""
        request = gateway_pb2.EmbedRequest(workload=workload, images=item_pb2.ImageItems(items=items))
        return await self._answer(self._stub.Embed(request, metadata=METADATA, timeout=WARM_S))

    async def embed(
        self, texts: Sequence[str], workload: str = "hash-384", timeout_s: float | None = 20.0
    ) -> gateway_pb2.EmbedResponse:
        """Raises errors.PodiumError."""
        return await self._answer(self.begin(texts, workload, timeout_s))

    async def warm(self, workload: str = "hash-384", patience_s: float = WARM_S) -> list[errors.Unavailable]:
        """Calls until there is an answer; returns what was said before."""
        refusals: list[errors.Unavailable] = []
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    await self.embed(["warm"], workload)
                except errors.Unavailable as error:
                    assert error.reason == "NO_WARM_WORKER", error.message
                    refusals.append(error)
                    await asyncio.sleep(_LOOK_S)
                else:
                    return refusals

    @staticmethod
    async def _answer(call: Any) -> gateway_pb2.EmbedResponse:
        try:
            answer: gateway_pb2.EmbedResponse = await call
        except grpc.aio.AioRpcError as error:
            raise statuses.from_rpc_error(error) from error
        return answer


@asynccontextmanager
async def caller(running: stack.Stack) -> AsyncIterator[Caller]:
    """A client of the first gateway."""
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        yield Caller(channel)


def rows(answer: gateway_pb2.EmbedResponse) -> npt.NDArray[np.float32]:
    """Vectors: float32, shape (items that succeeded, dimension)."""
    return np.frombuffer(answer.chunk.vectors, "<f4").reshape(-1, answer.chunk.dimension)
