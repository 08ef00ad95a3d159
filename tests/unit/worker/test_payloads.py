"""From an Assign to the items of one batch, and to what their rows shall look like."""

from __future__ import annotations

from typing import Any

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import item_pb2, workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import payloads
from podium_worker.domain import encodings

TEXT, IMAGE = workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE
LIMIT = 1 << 16
PLAIN = workload_pb2.Workload(name="w", dimension=96)
RICH = workload_pb2.Workload(
    name="w",
    dimension=96,
    dtypes=[workload_pb2.DTYPE_FLOAT32, workload_pb2.DTYPE_INT8, 77],  # type: ignore[list-item] # from a later version
    truncated_dimensions=[16, 32],
)


def assign(items: Any, modality: int, **fields: Any) -> worker_pb2.Assign:
    payload = items.SerializeToString()
    count = len(items.items)
    return worker_pb2.Assign(
        **{
            "modality": modality,
            "payload": payload,
            "payload_encoding": item_pb2.PAYLOAD_ENCODING_IDENTITY,
            "item_count": count,
        }
        | fields
    )


def texts(*found: str, keys: bool = False) -> item_pb2.TextItems:
    return item_pb2.TextItems(items=[item_pb2.TextItem(text=t, key=f"k{t}" if keys else "") for t in found])


def images(*urls: str, keys: bool = True) -> item_pb2.ImageItems:
    return item_pb2.ImageItems(items=[item_pb2.ImageItem(url=u, key=f"k{u}" if keys else "") for u in urls])


def test_texts_have_the_prefix_of_their_side() -> None:
    prefixes = workload_pb2.TextPrefixes(query="q: ", passage="p: ", default_input_type=workload_pb2.INPUT_TYPE_PASSAGE)
    workload = workload_pb2.Workload(name="w", dimension=96, prefixes=prefixes)
    read = payloads.texts(assign(texts("a", "b", keys=True), TEXT), workload, LIMIT)
    assert (list(read.texts), list(read.keys)) == (["p: a", "p: b"], ["ka", "kb"])
    query = item_pb2.EmbeddingOptions(input_type=workload_pb2.INPUT_TYPE_QUERY)
    assert payloads.texts(assign(texts("a"), TEXT, options=query), workload, LIMIT).texts == ["q: a"]
    assert payloads.texts(assign(texts("a"), TEXT), PLAIN, LIMIT) == payloads.Texts(["a"], ())


def test_token_ids_come_in_place_of_texts_where_the_workload_takes_them() -> None:
    items = texts("a", "b", "c")
    items.items[1].text, items.items[1].token_ids.ids[:] = "", [7, 2**32 - 1]
    reads = workload_pb2.Workload(name="w", dimension=96, accepts_token_ids=True)
    assert payloads.texts(assign(items, TEXT), reads, LIMIT).texts == ["a", (7, 2**32 - 1), "c"]
    half = assign(items, TEXT, payload_offset=1, item_count=2)
    assert payloads.texts(half, reads, LIMIT).texts == [(7, 2**32 - 1), "c"]
    prefixed = workload_pb2.Workload(
        name="w", dimension=96, accepts_token_ids=True, prefixes=workload_pb2.TextPrefixes(query="q: ")
    )
    query = item_pb2.EmbeddingOptions(input_type=workload_pb2.INPUT_TYPE_QUERY)
    for workload, options in ((PLAIN, None), (prefixed, query)):
        with pytest.raises(payloads.BadPayload, match="takes no token ids"):
            payloads.texts(assign(items, TEXT, options=options), workload, LIMIT)


@given(st.integers(0, 7), st.integers(-1, 8))
def test_a_half_is_its_own_range_of_the_whole_payload(offset: int, count: int) -> None:
    half = assign(texts(*"abcdef"), TEXT, payload_offset=offset, item_count=max(0, count))
    shown = assign(images(*"abcdef"), IMAGE, payload_offset=offset, item_count=max(0, count))
    if count < 1 or offset + count > 6:
        for read in (lambda: payloads.texts(half, PLAIN, LIMIT), lambda: payloads.images(shown, LIMIT)):
            with pytest.raises(payloads.BadPayload, match="holds 6 items, the batch is"):
                read()
        return
    wanted = list("abcdef")[offset : offset + count]
    assert payloads.texts(half, PLAIN, LIMIT).texts == wanted
    found = payloads.images(shown, LIMIT)
    assert [item.url for item in found.items] == wanted
    assert found.keys == [f"k{url}" for url in wanted]


def test_a_batch_that_was_taken_in_has_its_own_keys_wherever_it_began() -> None:
    taken = assign(images("a", "b"), IMAGE, payload_offset=40)
    assert payloads.keys_of_images(taken, LIMIT) == ["ka", "kb"]
    assert payloads.keys_of_images(assign(images("a", keys=False), IMAGE), LIMIT) == ()
    for count in (0, 1, 3):
        with pytest.raises(payloads.BadPayload, match=f"has {count} images, its payload names 2"):
            payloads.keys_of_images(assign(images("a", "b"), IMAGE, item_count=count), LIMIT)


def test_one_modality_is_not_read_as_another() -> None:
    with pytest.raises(payloads.BadPayload, match="holds no texts"):
        payloads.texts(assign(images("a"), IMAGE), PLAIN, LIMIT)
    for read in (payloads.images, payloads.keys_of_images):
        with pytest.raises(payloads.BadPayload, match="holds no images"):
            read(assign(texts("a"), TEXT), LIMIT)


def test_compressed_payloads_are_bounded_and_whole() -> None:
    lz4_frame = item_pb2.PAYLOAD_ENCODING_LZ4_FRAME
    packed = lz4.frame.compress(images("a").SerializeToString())
    good = assign(images("a"), IMAGE, payload=packed, payload_encoding=lz4_frame)
    assert [item.url for item in payloads.images(good, LIMIT).items] == ["a"]
    for payload, encoding, message in (
        (lz4.frame.compress(bytes(LIMIT + 1)), lz4_frame, "more than 65536 bytes once decompressed"),
        (packed[:-5], lz4_frame, "cut short"),
        (b"nothing", lz4_frame, "no LZ4 frame"),
        (bytes(LIMIT + 1), item_pb2.PAYLOAD_ENCODING_IDENTITY, "has 65537 bytes; at most 65536 are read"),
        (b"\xff", item_pb2.PAYLOAD_ENCODING_IDENTITY, "no serialized ImageItems"),
        (packed, item_pb2.PAYLOAD_ENCODING_UNSPECIFIED, "encoding 0 is unknown"),
    ):
        with pytest.raises(payloads.BadPayload, match=message):
            payloads.images(assign(images("a"), IMAGE, payload=payload, payload_encoding=encoding), LIMIT)


def test_options_that_are_unset_or_the_defaults_are_always_allowed() -> None:
    whole = item_pb2.EmbeddingOptions(dimensions=96, dtype=workload_pb2.DTYPE_FLOAT32)
    for workload in (PLAIN, RICH):
        for options in (item_pb2.EmbeddingOptions(), whole):
            assert payloads.options(options, workload) == encodings.Encoding(96, encodings.Dtype.FLOAT32)


def test_options_that_the_workload_allows() -> None:
    options = item_pb2.EmbeddingOptions(dimensions=32, dtype=workload_pb2.DTYPE_INT8)
    assert payloads.options(options, RICH) == encodings.Encoding(32, encodings.Dtype.INT8)


@pytest.mark.parametrize(
    ("workload", "options", "message"),
    [
        (RICH, {"dimensions": 17}, "are not cut to 17 elements"),
        (RICH, {"dimensions": 0}, "are not cut to 0 elements"),
        (PLAIN, {"dimensions": 32}, "are not cut to 32 elements"),
        (RICH, {"dtype": workload_pb2.DTYPE_BINARY}, "are not made in element type 4"),
        (PLAIN, {"dtype": workload_pb2.DTYPE_INT8}, "are not made in element type 3"),
        (RICH, {"dtype": 77}, "are not made in element type 77"),
        (RICH, {"dtype": 0}, "are not made in element type 0"),
    ],
)
def test_options_that_it_does_not_allow(workload: workload_pb2.Workload, options: dict[str, Any], message: str) -> None:
    with pytest.raises(payloads.BadPayload, match=message):
        payloads.options(item_pb2.EmbeddingOptions(**options), workload)
