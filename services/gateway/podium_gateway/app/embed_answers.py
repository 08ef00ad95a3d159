"""From a scheduler's answer, and from what the cache has, to the one chunk that an Embed call gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import google_crc32c

from podium.common.v1 import result_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import embed_requests
from podium_gateway.domain import vector_cache


def whole(answer: scheduler_pb2.EmbedResponse, items: embed_requests.Items) -> gateway_pb2.EmbedResponse:
    """Of a call all of whose items were asked for."""
    response = gateway_pb2.EmbedResponse(chunk=answer.chunk, token_count=sum(answer.token_counts))
    _put_keys(response.chunk, items)
    if answer.HasField("compute_time"):
        response.compute_time.CopyFrom(answer.compute_time)
    return response


def make(answer: scheduler_pb2.EmbedResponse) -> bytes:
    """All that is said of how its rows were made, as entries have it."""
    return answer.chunk.provenance.SerializeToString()


def model(answer: scheduler_pb2.EmbedResponse) -> tuple[str, str]:
    """Name and revision of the model that made it."""
    made_by = answer.chunk.provenance
    return made_by.model_name, made_by.revision


def entries(answer: scheduler_pb2.EmbedResponse) -> Iterator[vector_cache.Entry | None]:
    """What can be kept of an answer, one for each item: None for one that failed."""
    chunk = answer.chunk
    failed = {error.item_index for error in chunk.errors}
    truncated = {t.item_index: t for t in chunk.truncations}
    provenance = make(answer)
    vectors = chunk.vectors  # each look at the field is another copy of all of it
    row_bytes = len(vectors) // chunk.count if chunk.count else 0
    start = 0
    for index in range(chunk.item_count):
        if index in failed:
            yield None
            continue
        cut = truncated.get(index)
        yield vector_cache.Entry(
            row=vectors[start : start + row_bytes],
            provenance=provenance,
            token_count=answer.token_counts[index] if index < len(answer.token_counts) else 0,
            max_tokens=cut.max_tokens if cut else 0,
            whole_tokens=cut.token_count if cut else 0,
        )
        start += row_bytes


def merged(
    found: Sequence[vector_cache.Entry | None],
    fresh: scheduler_pb2.EmbedResponse | None,
    asked: Sequence[int],
    items: embed_requests.Items,
) -> gateway_pb2.EmbedResponse:
    """Of a call whose items at the indices `asked` are in `fresh`, and whose others were found in the cache.

    All of one make.
    """
    outcomes = list(found)
    response = gateway_pb2.EmbedResponse()
    chunk = response.chunk
    if fresh is not None:
        for index, entry in zip(asked, entries(fresh), strict=True):
            outcomes[index] = entry
        for error in fresh.chunk.errors:
            moved = chunk.errors.add()
            moved.CopyFrom(error)
            moved.item_index = asked[error.item_index]
        response.compute_time.CopyFrom(fresh.compute_time)
        response.token_count = sum(fresh.token_counts)
    rows = [entry for entry in outcomes if entry is not None]
    response.token_count += sum(entry.token_count for entry in found if entry is not None)
    chunk.provenance.ParseFromString(rows[0].provenance if fresh is None else make(fresh))
    chunk.dimension, chunk.dtype = chunk.provenance.dimension, chunk.provenance.dtype
    chunk.vectors = b"".join([entry.row for entry in rows])
    chunk.crc32c = google_crc32c.value(chunk.vectors)
    chunk.item_count, chunk.count = len(items), len(rows)
    chunk.last_in_batch, chunk.attempt = True, 1
    for index, entry in enumerate(outcomes):
        if entry is not None and entry.max_tokens:
            chunk.truncations.add(item_index=index, token_count=entry.whole_tokens, max_tokens=entry.max_tokens)
    _put_keys(chunk, items)
    return response


def _put_keys(chunk: result_pb2.ResultChunk, items: embed_requests.Items) -> None:
    del chunk.keys[:]
    keys = [item.key for item in items]
    if any(keys):
        chunk.keys.extend(keys)
