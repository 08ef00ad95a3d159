"""From an Assign's payload bytes to the texts of this batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lz4.frame
from google.protobuf.message import DecodeError

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2


class BadPayload(Exception):
    """The payload cannot be read, or asks for what this worker does not do. Another attempt would fail alike."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The items of one batch. `keys` is empty when no item has one."""

    texts: Sequence[str]
    keys: Sequence[str]


def decode(assign: worker_pb2.Assign, workload: workload_pb2.Workload, max_payload_bytes: int) -> Texts:
    """The batch's own items with the prefix of their side. Raises BadPayload."""
    if assign.modality != workload_pb2.MODALITY_TEXT:
        raise BadPayload("This worker reads texts only.")
    _check_options(assign.options)
    items = item_pb2.TextItems()
    try:
        items.ParseFromString(_plain(assign, max_payload_bytes))
    except DecodeError as error:
        raise BadPayload("The payload is no serialized TextItems.") from error
    # A half of a bisected batch carries the whole payload and names its range.
    start, stop = assign.payload_offset, assign.payload_offset + assign.item_count
    if assign.item_count < 1 or stop > len(items.items):
        raise BadPayload(f"The payload holds {len(items.items)} items, the batch is [{start}, {stop}) of them.")
    mine = items.items[start:stop]
    prefix = _prefix(assign.options, workload.prefixes)
    texts = [prefix + item.text for item in mine] if prefix else [item.text for item in mine]
    keys = [item.key for item in mine]
    return Texts(texts, keys if any(keys) else ())


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


def _check_options(options: item_pb2.EmbeddingOptions) -> None:
    if options.HasField("dimensions"):
        raise BadPayload("This worker makes vectors of the model's own dimension only.")
    if options.HasField("dtype") and options.dtype != workload_pb2.DTYPE_FLOAT32:
        raise BadPayload("This worker makes float32 vectors only.")


def _prefix(options: item_pb2.EmbeddingOptions, prefixes: workload_pb2.TextPrefixes) -> str:
    side = options.input_type if options.HasField("input_type") else prefixes.default_input_type
    if side == workload_pb2.INPUT_TYPE_QUERY:
        return prefixes.query
    if side == workload_pb2.INPUT_TYPE_PASSAGE:
        return prefixes.passage
    return ""
