"""Interactive calls: a few items, answered at once by a worker that has the model loaded, or refused.

Promises: nothing is stored, and an answer or a typed error comes within the time given: while the service says that it
is away or full and when to try again, the call is repeated, as long as that is before its end; a refusal that could
only be repeated later is raised at once, with `retry_after_s`. Clock: the retry policy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import grpc
import numpy as np

from podium.common.v1 import item_pb2
from podium.gateway.v1 import gateway_pb2
from podium_client.errors import InvalidInput, PodiumError, ProtocolError, decode_details, from_rpc_error
from podium_client.items import Kind
from podium_client.parts import add
from podium_client.results import Embeddings, ResultChunk, chunk_from_proto, fill
from podium_client.retry import is_retryable
from podium_client.rpc import Gateway, with_origin

T = TypeVar("T")
DEFAULT_TIMEOUT_S = 10.0
MAX_ITEMS = 64


def request_of(
    kind: Kind[T], inputs: Sequence[T], workload: str, options: item_pb2.EmbeddingOptions, keys: Iterable[str] | None
) -> gateway_pb2.EmbedRequest:
    """The request. InvalidInput names an item that is none."""
    named = list(keys) if keys is not None else [""] * len(inputs)
    if len(named) != len(inputs):
        raise InvalidInput(f"keys: {len(named)} for {len(inputs)} items")
    items = kind.empty()
    for index, (value, key) in enumerate(zip(inputs, named, strict=True)):
        add(items, kind.read(index, value), key)
    request = gateway_pb2.EmbedRequest(workload=workload, options=options)
    getattr(request, kind.name).CopyFrom(items)
    return request


async def query(
    gateway: Gateway, request: gateway_pb2.EmbedRequest, count: int, timeout_s: float, *, with_keys: bool
) -> Embeddings:
    """The vectors of `count` items, in order. Raises PodiumError within `timeout_s` seconds."""
    policy = gateway.policy
    until, pause_s = policy.now() + timeout_s, policy.first_pause_s
    while True:
        try:
            answer = await gateway.embed_once(request, max(0.0, until - policy.now()))
            return _embeddings(chunk_from_proto(answer.chunk, ""), count, with_keys=with_keys)
        except grpc.RpcError as error:
            least_s = decode_details(error).retry_after_s or 0.0
            wait_s = max(least_s, pause_s * (0.5 + policy.dice()))
            if not is_retryable(error) or policy.now() + wait_s >= until:
                raise with_origin(from_rpc_error(error), gateway.endpoint) from error
            pause_s = min(pause_s * policy.growth, policy.longest_pause_s)
        except PodiumError as error:
            raise with_origin(error, gateway.endpoint) from error.__cause__
        await policy.sleep(wait_s)


def _embeddings(chunk: ResultChunk, count: int, *, with_keys: bool) -> Embeddings:
    if (chunk.first_item, chunk.item_count) != (0, count):
        raise ProtocolError(f"the answer covers items {chunk.first_item}+{chunk.item_count}, {count} were asked for")
    ok = np.zeros(count, dtype=np.bool_)
    rows = np.zeros((count, 0), dtype=np.float32) if chunk.layout is None else chunk.layout.zeros(count)
    fill(rows, ok, chunk)
    return Embeddings(
        vectors=rows,
        ok=ok,
        errors=chunk.errors,
        truncations=chunk.truncations,
        keys=chunk.keys if with_keys else None,
        provenance=chunk.provenance,
        layout=chunk.layout,
    )
