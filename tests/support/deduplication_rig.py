"""Jobs whose identical items are computed once, as the tests of the whole system submit, read and count them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import numpy as np

from podium.common.v1 import item_pb2, job_pb2, result_pb2
from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_worker.adapters.hash_backend import hash_vectors
from tests.support import stack
from tests.support.metrics import metric

COMPUTED = r"podium_worker_items_computed_total\{.*hash-384"


@asynccontextmanager
async def stub_of(running: stack.Stack) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceStub]:
    async with grpc.aio.insecure_channel(running.gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


Stub = gateway_pb2_grpc.GatewayServiceStub
BEARER = (("authorization", f"Bearer {stack.APP_TOKEN}"),)


async def submit(
    stub: Stub,
    texts: Sequence[str],
    *,
    deduplicate: bool = True,
    options: item_pb2.EmbeddingOptions | None = None,
    token: str = stack.APP_TOKEN,
) -> str:
    items = [item_pb2.TextItem(key=f"key-{n}", text=text) for n, text in enumerate(texts)]
    request = gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()), workload="hash-384", texts=item_pb2.TextItems(items=items),
        deduplicate=deduplicate, options=options,
    )  # fmt: skip
    return (await stub.SubmitBatch(request, metadata=(("authorization", f"Bearer {token}"),))).job.job_id


async def results(
    stub: Stub, job_id: str, token: str = stack.APP_TOKEN
) -> tuple[list[result_pb2.ResultChunk], job_pb2.Job]:
    chunks, end = [], None
    request = gateway_pb2.StreamResultsRequest(job_id=job_id)
    async for message in stub.StreamResults(request, metadata=(("authorization", f"Bearer {token}"),)):
        if message.HasField("chunk"):
            chunks.append(message.chunk)
        elif message.HasField("end"):
            end = message.end.job
    assert end is not None
    return chunks, end


def check(chunks: Sequence[result_pb2.ResultChunk], texts: Sequence[str]) -> None:
    """In order, with the keys right, bit-equal to what the function says."""
    assert [key for chunk in chunks for key in chunk.keys] == [f"key-{n}" for n in range(len(texts))]
    assert not [error for chunk in chunks for error in chunk.errors]
    expected = hash_vectors([text.encode() for text in texts], 384)
    assert b"".join(chunk.vectors for chunk in chunks) == expected.tobytes()
    assert [chunk.first_item for chunk in chunks] == list(np.cumsum([0] + [c.item_count for c in chunks])[:-1])


async def computed(running: stack.Stack, pattern: str = COMPUTED) -> float:
    alive = [worker for worker in running.workers if worker.process.returncode is None]
    return sum([await metric(worker.metrics, pattern) for worker in alive])
