"""From requests to admissions, without a wire."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace

import lz4.frame
import pytest

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.adapters import compression
from podium_gateway.app import submissions
from podium_gateway.domain import workloads
from podium_runtime import errors

RULES = workloads.WorkloadRules(
    name="texts",
    modalities=frozenset({workloads.Modality.TEXT}),
    dimension=384,
    has_prefixes=False,
    max_text_bytes=8192,
    max_image_bytes=0,
    max_task_bytes=0,
    max_batch_items=100,
    max_batch_bytes=4000,
)


def _request(*texts: str) -> gateway_pb2.SubmitBatchRequest:
    return gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()),
        workload="texts",
        texts=item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts]),
    )


def test_batches_keep_the_byte_bound_and_all_items() -> None:
    request = _request(*["x" * n for n in range(1, 400)])
    admission = submissions.prepare(request, RULES, lambda data: bytes(data))
    assert all(len(b.payload) <= 4000 for b in admission.batches)
    parts = [item_pb2.TextItems.FromString(b.payload).items for b in admission.batches]
    assert [len(part) for part in parts] == [b.item_count for b in admission.batches]
    assert [item for part in parts for item in part] == list(request.texts.items)


def test_what_does_not_compress_is_sent_as_it_is() -> None:
    admission = submissions.prepare(_request("y" * 2000), RULES, lambda data: bytes(data) + b"!")
    assert admission.batches[0].payload_encoding == item_pb2.PAYLOAD_ENCODING_IDENTITY


def test_the_digest_is_of_the_request_and_not_of_the_registry() -> None:
    request = _request(*["some text"] * 300)
    one = submissions.prepare(request, RULES, compression.lz4_frame)
    other = submissions.prepare(request, replace(RULES, max_batch_items=7), compression.lz4_frame)
    assert one.payload_digest == other.payload_digest
    assert len(one.batches) != len(other.batches)


def test_the_digest_ignores_the_order_of_labels_and_the_request_id() -> None:
    first, second = _request("a"), _request("a")
    first.labels.update({"a": "1", "b": "2"})
    second.labels.update({"b": "2", "a": "1"})
    digests = {submissions.prepare(r, RULES, compression.lz4_frame).payload_digest for r in (first, second)}
    assert len(digests) == 1


def test_unknown_fields_are_dropped() -> None:
    # Field 15, a varint, in a TextItem and in the request.
    item = item_pb2.TextItem.FromString(item_pb2.TextItem(text="a").SerializeToString() + b"\x78\x01")
    request = gateway_pb2.SubmitBatchRequest.FromString(_request().SerializeToString() + b"\x78\x01")
    request.texts.items.append(item)
    admission = submissions.prepare(request, RULES, compression.lz4_frame)
    assert item_pb2.TextItems.FromString(admission.batches[0].payload).items[0] == item_pb2.TextItem(text="a")
    plain = submissions.prepare(_request("a"), RULES, compression.lz4_frame)
    assert admission.payload_digest == plain.payload_digest


PICTURES = replace(
    RULES,
    name="pictures",
    modalities=frozenset({workloads.Modality.IMAGE}),
    max_image_bytes=32 << 20,
    max_batch_items=64,
    max_batch_bytes=8 << 20,
)


def _pictures(*images: item_pb2.ImageItem) -> gateway_pb2.SubmitBatchRequest:
    return gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()), workload="pictures", images=item_pb2.ImageItems(items=images)
    )


def test_inline_images_are_cut_by_bytes_and_a_large_one_is_alone() -> None:
    # The largest that a registry allows: its batch still fits into one frame of a stream (64 MiB).
    sizes = [3 << 20, 4 << 20, 2 << 20, 32 << 20, 1, 5 << 20]
    request = _pictures(*[item_pb2.ImageItem(data=bytes([n]) * size) for n, size in enumerate(sizes)])
    admission = submissions.prepare(request, PICTURES, lambda data: bytes(data))
    assert [(b.first_item, b.item_count) for b in admission.batches] == [(0, 2), (2, 1), (3, 1), (4, 2)]
    assert max(b.ByteSize() for b in admission.batches) < (32 << 20) + 1024
    parts = [item_pb2.ImageItems.FromString(b.payload).items for b in admission.batches]
    assert [item for part in parts for item in part] == list(request.images.items)


def test_urls_and_inline_images_share_a_job() -> None:
    items = [item_pb2.ImageItem(key="a", url="https://h/a.jpg"), item_pb2.ImageItem(key="b", data=b"file")]
    admission = submissions.prepare(_pictures(*items), PICTURES, compression.lz4_frame)
    assert admission.modality == workload_pb2.MODALITY_IMAGE
    assert list(item_pb2.ImageItems.FromString(admission.batches[0].payload).items) == items


def test_no_time_is_spent_on_what_is_compressed_already() -> None:
    given: list[int] = []

    def counting(data: memoryview) -> bytes:
        given.append(len(data))
        return compression.lz4_frame(data)

    noise = random.Random(1).randbytes(1 << 20)
    admission = submissions.prepare(_pictures(item_pb2.ImageItem(data=noise)), PICTURES, counting)
    assert admission.batches[0].payload_encoding == item_pb2.PAYLOAD_ENCODING_IDENTITY
    assert given == [submissions.PROBE_BYTES]
    given.clear()
    # A bitmap is not, whatever its modality is.
    admission = submissions.prepare(_pictures(item_pb2.ImageItem(data=b"BM" + bytes(1 << 20))), PICTURES, counting)
    assert admission.batches[0].payload_encoding == item_pb2.PAYLOAD_ENCODING_LZ4_FRAME
    assert len(given) == 2


def test_every_violation_is_in_the_error() -> None:
    request = _request("", "z" * 9000)
    request.request_id = ""
    with pytest.raises(errors.InvalidArgument) as caught:
        submissions.prepare(request, RULES, compression.lz4_frame)
    assert [v.field for v in caught.value.violations] == [
        "request_id",
        "texts.items[0].text",
        "texts.items[1].text",
    ]


def test_identical_texts_have_the_same_identity_wherever_they_are() -> None:
    request = _request(*["a", "b"] * 60)
    request.deduplicate = True
    request.texts.items[119].key = "last"
    admission = submissions.prepare(request, RULES, compression.lz4_frame)
    assert admission.deduplicate
    assert [len(b.identities.hashes) for b in admission.batches] == [1600, 320]
    whole = b"".join(b.identities.hashes for b in admission.batches)
    assert whole == (whole[:16] + whole[16:32]) * 60
    assert whole[:16] != whole[16:32]
    # Keys where a batch has some, and one for each of its items then.
    assert [list(b.identities.keys) for b in admission.batches] == [[], [""] * 19 + ["last"]]


def test_an_image_given_by_url_is_never_taken_for_another() -> None:
    items = [
        item_pb2.ImageItem(url="https://h/a.jpg"), item_pb2.ImageItem(url="https://h/a.jpg"),
        item_pb2.ImageItem(data=b"file"), item_pb2.ImageItem(data=b"file"),
    ]  # fmt: skip
    request = _pictures(*items)
    request.deduplicate = True
    hashes = submissions.prepare(request, PICTURES, compression.lz4_frame).batches[0].identities.hashes
    assert hashes[:32] == bytes(32)
    assert hashes[32:48] == hashes[48:] != bytes(16)


def test_deduplication_is_part_of_the_payload_only_when_it_is_asked_for() -> None:
    request = _request("a")
    plain = submissions.prepare(request, RULES, compression.lz4_frame)
    # As it was before there was such a thing.
    assert not plain.deduplicate and not plain.batches[0].HasField("identities")
    request.deduplicate = True
    assert submissions.prepare(request, RULES, compression.lz4_frame).payload_digest != plain.payload_digest


def test_tasks_are_not_deduplicated() -> None:
    tasks = replace(RULES, modalities=frozenset({workloads.Modality.TASK}))
    request = gateway_pb2.SubmitBatchRequest(request_id=str(uuid.uuid4()), workload="texts", deduplicate=True)
    request.tasks.items.add(input=b"x")
    with pytest.raises(errors.InvalidArgument) as caught:
        submissions.prepare(request, tasks, compression.lz4_frame)
    assert [v.field for v in caught.value.violations] == ["deduplicate"]


def _ids(*ids: int, text: str = "", key: str = "") -> item_pb2.TextItem:
    return item_pb2.TextItem(text=text, key=key, token_ids=item_pb2.TokenIds(ids=ids))


def _with(*items: item_pb2.TextItem) -> gateway_pb2.SubmitBatchRequest:
    return gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()), workload="texts", texts=item_pb2.TextItems(items=items)
    )


READS_IDS = replace(RULES, accepts_token_ids=True, max_text_bytes=5)


def test_token_ids_are_cut_and_carried_like_texts() -> None:
    request = _with(*(_ids(*range(1, 1 + n % 5), 7, key=f"k{n}") for n in range(150)), item_pb2.TextItem(text="text"))
    admission = submissions.prepare(request, READS_IDS, compression.lz4_frame)
    assert [b.item_count for b in admission.batches] == [100, 51]
    parts = [b.payload for b in admission.batches]
    whole = [compression_undone(part, b.payload_encoding) for part, b in zip(parts, admission.batches, strict=True)]
    found = [item for part in whole for item in item_pb2.TextItems.FromString(part).items]
    assert found == list(request.texts.items)


def compression_undone(payload: bytes, encoding: int) -> bytes:
    if encoding == item_pb2.PAYLOAD_ENCODING_IDENTITY:
        return payload
    plain: bytes = lz4.frame.decompress(payload)
    return plain


def test_what_is_wrong_with_token_ids_is_named() -> None:
    request = _with(
        _ids(1), _ids(), _ids(1, 2, text="a"), _ids(*range(6)), item_pb2.TextItem(), _ids(*range(5)), _ids(2**32 - 1)
    )
    with pytest.raises(errors.InvalidArgument) as refused:
        submissions.prepare(request, READS_IDS, compression.lz4_frame)
    assert [(v.field, v.description) for v in refused.value.violations] == [
        ("texts.items[1].token_ids", "is empty"),
        ("texts.items[2].token_ids", "is given beside a text; an item has one of them"),
        ("texts.items[3].token_ids", "holds 6 token ids; the workload's limit is 5"),
        ("texts.items[4].text", "is empty"),
    ]


def test_a_workload_that_takes_no_token_ids_says_so() -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        submissions.prepare(_with(item_pb2.TextItem(text="a"), _ids(1), _ids()), RULES, compression.lz4_frame)
    assert [(v.field, v.description) for v in refused.value.violations] == [
        (f"texts.items[{index}].token_ids", "workload 'texts' takes no token ids: send the text") for index in (1, 2)
    ]


def test_token_ids_are_identical_to_the_same_ids_alone() -> None:
    shared = _ids(1, 2)
    # A text whose bytes are those of the ids as they are serialized.
    text = item_pb2.TextItem(text=shared.token_ids.SerializeToString().decode())
    request = _with(shared, _ids(1, 2, key="k"), _ids(2, 1), text, _ids(1, 2, 3))
    request.deduplicate = True
    (batch,) = submissions.prepare(request, READS_IDS, compression.lz4_frame).batches
    hashes = [batch.identities.hashes[16 * n : 16 * n + 16] for n in range(5)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
