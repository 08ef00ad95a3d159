"""From an Assign's payload bytes and options to the items of this batch, and to what their rows shall look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import lz4.frame
from google.protobuf.message import DecodeError

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.app import backend
from podium_worker.domain import encodings

_DTYPES: dict[int, encodings.Dtype] = {
    workload_pb2.DTYPE_FLOAT32: encodings.Dtype.FLOAT32,
    workload_pb2.DTYPE_FLOAT16: encodings.Dtype.FLOAT16,
    workload_pb2.DTYPE_INT8: encodings.Dtype.INT8,
    workload_pb2.DTYPE_BINARY: encodings.Dtype.BINARY,
}


class BadPayload(Exception):
    """The payload cannot be read, or asks for what this worker does not do. Another attempt would fail alike."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of one batch. `keys` is empty when no item has one."""

    texts: Sequence[backend.Text]
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one batch. `keys` is empty when no item has one."""

    items: Sequence[item_pb2.ImageItem]
    keys: Sequence[str]


class _Item(Protocol):
    @property
    def key(self) -> str: ...


_AnItem = TypeVar("_AnItem", bound=_Item)


def texts(assign: worker_pb2.Assign, workload: workload_pb2.Workload, max_payload_bytes: int) -> Texts:
    """The batch's own texts with the prefix of their side, or their token ids. Raises BadPayload."""
    if assign.modality != workload_pb2.MODALITY_TEXT:
        raise BadPayload("The batch holds no texts.")
    items = item_pb2.TextItems()
    _parse(items, assign, max_payload_bytes)
    mine = _own(items.items, assign)
    prefix = _prefix(assign.options, workload.prefixes)
    found = [prefix + text if (text := item.text) else _ids(item, workload, prefix) for item in mine]
    return Texts(found, _keys(mine))


def _ids(item: item_pb2.TextItem, workload: workload_pb2.Workload, prefix: str) -> backend.Text:
    """The token ids of an item without a text."""
    if not item.HasField("token_ids"):
        return prefix
    if not workload.accepts_token_ids or prefix:
        # Nobody knows which ids the prefix and a text would have together.
        raise BadPayload(f"Workload {workload.name!r} takes no token ids.")
    return tuple(item.token_ids.ids)


def images(assign: worker_pb2.Assign, max_payload_bytes: int) -> Images:
    """The batch's own images, as they were assigned. Raises BadPayload."""
    mine = _own(_image_items(assign, max_payload_bytes), assign)
    return Images(mine, _keys(mine))


def keys_of_images(assign: worker_pb2.Assign, max_payload_bytes: int) -> Sequence[str]:
    """Keys of a batch that the front has taken in: its payload holds this batch's items alone. Raises BadPayload.

    `payload_offset` is left as it was, for it tells which batches are suspect.
    """
    items = _image_items(assign, max_payload_bytes)
    if assign.item_count < 1 or len(items) != assign.item_count:
        raise BadPayload(f"The batch has {assign.item_count} images, its payload names {len(items)}.")
    return _keys(items)


def options(given: item_pb2.EmbeddingOptions, workload: workload_pb2.Workload) -> encodings.Encoding:
    """What the rows shall look like. Raises BadPayload for what the workload does not allow."""
    dimensions, dtype = workload.dimension, encodings.Dtype.FLOAT32
    if given.HasField("dimensions") and given.dimensions != workload.dimension:
        dimensions = given.dimensions
        if dimensions not in workload.truncated_dimensions:
            raise BadPayload(f"Vectors of workload {workload.name!r} are not cut to {dimensions} elements.")
    if given.HasField("dtype") and given.dtype != workload_pb2.DTYPE_FLOAT32:
        if given.dtype not in workload.dtypes or given.dtype not in _DTYPES:
            raise BadPayload(f"Vectors of workload {workload.name!r} are not made in element type {given.dtype}.")
        dtype = _DTYPES[given.dtype]
    return encodings.Encoding(dimensions, dtype)


def _image_items(assign: worker_pb2.Assign, max_payload_bytes: int) -> Sequence[item_pb2.ImageItem]:
    if assign.modality != workload_pb2.MODALITY_IMAGE:
        raise BadPayload("The batch holds no images.")
    items = item_pb2.ImageItems()
    _parse(items, assign, max_payload_bytes)
    return items.items


def _parse(items: item_pb2.TextItems | item_pb2.ImageItems, assign: worker_pb2.Assign, max_payload_bytes: int) -> None:
    try:
        items.ParseFromString(_plain(assign, max_payload_bytes))
    except DecodeError as error:
        raise BadPayload(f"The payload is no serialized {type(items).__name__}.") from error


def _own(items: Sequence[_AnItem], assign: worker_pb2.Assign) -> Sequence[_AnItem]:
    """A half of a bisected batch carries the whole payload and names its range."""
    start, stop = assign.payload_offset, assign.payload_offset + assign.item_count
    if assign.item_count < 1 or stop > len(items):
        raise BadPayload(f"The payload holds {len(items)} items, the batch is [{start}, {stop}) of them.")
    return items[start:stop]


def _keys(items: Sequence[_Item]) -> Sequence[str]:
    keys = [item.key for item in items]
    return keys if any(keys) else ()


def _plain(assign: worker_pb2.Assign, max_payload_bytes: int) -> bytes:
    if assign.payload_encoding == item_pb2.PAYLOAD_ENCODING_LZ4_FRAME:
        return _decompress(assign.payload, max_payload_bytes)
    if assign.payload_encoding != item_pb2.PAYLOAD_ENCODING_IDENTITY:
        raise BadPayload(f"Payload encoding {assign.payload_encoding} is unknown.")
    if len(assign.payload) > max_payload_bytes:
        raise BadPayload(f"The payload has {len(assign.payload)} bytes; at most {max_payload_bytes} are read.")
    return assign.payload


def _decompress(data: bytes, max_bytes: int) -> bytes:
    """Bounded, so that a small frame cannot blow up into all of the memory."""
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        plain: bytes = decompressor.decompress(data, max_length=max_bytes + 1)
    except RuntimeError as error:
        raise BadPayload("The payload is no LZ4 frame.") from error
    if len(plain) > max_bytes:
        raise BadPayload(f"The payload has more than {max_bytes} bytes once decompressed.")
    if not decompressor.eof:
        raise BadPayload("The payload's LZ4 frame is cut short.")
    return plain


def _prefix(options: item_pb2.EmbeddingOptions, prefixes: workload_pb2.TextPrefixes) -> str:
    side = options.input_type if options.HasField("input_type") else prefixes.default_input_type
    if side == workload_pb2.INPUT_TYPE_QUERY:
        return prefixes.query
    if side == workload_pb2.INPUT_TYPE_PASSAGE:
        return prefixes.passage
    return ""
