"""The JSON of answers. Vectors are written piece by piece, so that a large answer does not hold the event loop."""

from __future__ import annotations

import array
import asyncio
import base64
import sys
from collections.abc import Iterable, Iterator

import orjson
from starlette.responses import Response

from podium.common.v1 import workload_pb2
from podium_gateway.app import embed_texts

FLOAT32_BYTES = 4
OWNER = "podium"


async def embeddings(vectors: embed_texts.Vectors, model: str, *, as_base64: bool) -> Response:
    """The answer to an embeddings request. base64: of the little-endian float32 numbers of each row."""
    rows: list[bytes] = []
    for piece in vectors.pieces:
        encoded = _base64_rows(piece, vectors.dimension) if as_base64 else _float_rows(piece, vectors.dimension)
        rows.extend(
            b'{"object":"embedding","index":%d,"embedding":%s}' % (index, row)
            for index, row in enumerate(encoded, start=len(rows))
        )
        # Others get a turn.
        await asyncio.sleep(0)
    usage = {"prompt_tokens": vectors.token_count, "total_tokens": vectors.token_count}
    tail = b'],"model":%s,"usage":%s}' % (orjson.dumps(model), orjson.dumps(usage))
    return _json(b'{"object":"list","data":[' + b",".join(rows) + tail)


def models(known: Iterable[workload_pb2.Workload]) -> Response:
    """The answer to a question for all models."""
    return _json(orjson.dumps({"object": "list", "data": [_model(w) for w in known if takes_texts(w)]}))


def model(known: workload_pb2.Workload) -> Response:
    """The answer to a question for one."""
    return _json(orjson.dumps(_model(known)))


def takes_texts(known: workload_pb2.Workload) -> bool:
    """Whether a workload is a model here."""
    return workload_pb2.MODALITY_TEXT in known.modalities


def _model(known: workload_pb2.Workload) -> dict[str, object]:
    # The registry does not say since when it has an entry; clients want a number.
    return {"id": known.name, "object": "model", "created": 0, "owned_by": OWNER}


def _base64_rows(piece: bytes, dimension: int) -> Iterator[bytes]:
    size = dimension * FLOAT32_BYTES
    view = memoryview(piece)
    for start in range(0, len(piece), size):
        yield b'"%s"' % base64.b64encode(view[start : start + size])


def _float_rows(piece: bytes, dimension: int) -> Iterator[bytes]:
    numbers = array.array("f", piece)
    if sys.byteorder == "big":
        numbers.byteswap()
    for start in range(0, len(numbers), dimension):
        yield orjson.dumps(numbers[start : start + dimension].tolist())


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
