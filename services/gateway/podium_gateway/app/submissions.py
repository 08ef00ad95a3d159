"""From a SubmitBatch request to the AdmitJob request: checked in one pass, cut, packed and digested.

All of it is CPU work without I/O, so that a large job can be prepared off the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from google.protobuf import duration_pb2

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import frames, ports, refusals
from podium_gateway.domain import cutting, identities, items, requests, violations, workloads
from podium_runtime import errors

# Below this a frame's header eats what compression gives.
MIN_COMPRESSED_BYTES = 512
# A large payload is compressed only if a piece of it gets smaller by this share: JPEG, PNG and their like never do, and
# trying it on all of them would be a third of what it costs to prepare such a job.
PROBE_BYTES = 64 << 10
PROBE_GAIN = 0.05
_DIGEST_VERSION = b"podium.job.1"
_MODALITIES = {
    workloads.Modality.TEXT: workload_pb2.MODALITY_TEXT,
    workloads.Modality.IMAGE: workload_pb2.MODALITY_IMAGE,
    workloads.Modality.TASK: workload_pb2.MODALITY_TASK,
}

Records = Sequence[item_pb2.TextItem] | Sequence[item_pb2.ImageItem] | Sequence[item_pb2.TaskItem]


def prepare(
    request: gateway_pb2.SubmitBatchRequest,
    rules: workloads.WorkloadRules | None,
    compress: ports.Compressor,
) -> scheduler_pb2.AdmitJobRequest:
    """The job as the ledger takes it, app and trace still open. Raises errors.InvalidArgument with every
    violation."""
    request.DiscardUnknownFields()
    bad = violations.Violations()
    admission = _check_fields(request, rules, bad)
    kind = _kind(request)
    records = _check_items(request, kind, rules, bad)
    requests.check_deduplicate(request.deduplicate, kind, bad)
    refusals.raise_if_any(bad)
    assert kind is not None and rules is not None, "a violation was raised otherwise"
    admission.modality = _MODALITIES[kind]
    container = getattr(request, kind.value)
    whole = container.SerializeToString()
    admission.payload_digest = _digest(admission, whole)
    admission.batches.extend(_batches(records, whole, rules, compress))
    if admission.deduplicate:
        _identify(admission.batches, kind, records)
    return admission


def _check_fields(
    request: gateway_pb2.SubmitBatchRequest, rules: workloads.WorkloadRules | None, bad: violations.Violations
) -> scheduler_pb2.AdmitJobRequest:
    admission = scheduler_pb2.AdmitJobRequest(workload=request.workload, deduplicate=request.deduplicate)
    admission.request_id = requests.check_uuid("request_id", request.request_id, bad)
    if not request.workload:
        bad.add("workload", "is required")
    elif rules is None:
        bad.add(
            "workload",
            f"there is no workload {request.workload[:100]!r}; ListWorkloads names those there are",
        )
    sent = request.priority if request.HasField("priority") else None
    admission.priority = requests.check_priority(sent, bad)
    requests.check_labels(request.labels, bad)
    admission.labels.update(request.labels)
    if request.HasField("options"):
        if rules is not None:
            requests.check_options(options_of(request.options), rules, bad)
        admission.options.CopyFrom(request.options)
    if request.HasField("completion_window"):
        window = request.completion_window
        requests.check_window(window.seconds + window.nanos / 1e9, bad)
        normal = duration_pb2.Duration()
        if not bad.found:
            normal.FromNanoseconds(window.seconds * 1_000_000_000 + window.nanos)
        admission.completion_window.CopyFrom(normal)
    if request.HasField("budget_usd"):
        requests.check_budget(request.budget_usd, bad)
        admission.budget_usd = request.budget_usd
    return admission


def options_of(options: item_pb2.EmbeddingOptions) -> requests.Options:
    """The options as the checks take them."""
    return requests.Options(
        input_type=options.input_type if options.HasField("input_type") else None,
        dimensions=options.dimensions if options.HasField("dimensions") else None,
        dtype=options.dtype if options.HasField("dtype") else None,
    )


def _kind(request: gateway_pb2.SubmitBatchRequest) -> workloads.Modality | None:
    name = request.WhichOneof("items")
    return workloads.Modality(name) if name else None


def _check_items(
    request: gateway_pb2.SubmitBatchRequest,
    kind: workloads.Modality | None,
    rules: workloads.WorkloadRules | None,
    bad: violations.Violations,
) -> Records:
    if not items.check_kind(kind, rules, bad) or kind is None:
        return []
    if not items.check_count(kind, len(getattr(request, kind.value).items), bad):
        return []
    if kind is workloads.Modality.TEXT:
        texts = list(request.texts.items)
        items.check_keys(kind, [t.key for t in texts], bad)
        check_texts(texts, rules, bad)
        return texts
    if kind is workloads.Modality.IMAGE:
        images = list(request.images.items)
        items.check_keys(kind, [i.key for i in images], bad)
        urls = [i.url if i.HasField("url") else None for i in images]
        items.check_images(urls, [len(i.data) for i in images], rules.max_image_bytes if rules else 0, bad)
        return images
    tasks = list(request.tasks.items)
    items.check_keys(kind, [t.key for t in tasks], bad)
    items.check_tasks([len(t.input) for t in tasks], rules.max_task_bytes if rules else 0, bad)
    return tasks


def check_texts(
    texts: Sequence[item_pb2.TextItem], rules: workloads.WorkloadRules | None, bad: violations.Violations
) -> None:
    """Checks texts, and the token ids that stand in their place."""
    strings = [t.text for t in texts]
    counts: list[int | None] = []
    if items.may_have_token_ids(strings, rules):
        counts = [len(t.token_ids.ids) if t.HasField("token_ids") else None for t in texts]
        items.check_token_ids(counts, strings, rules, bad)
    items.check_texts(strings, rules.max_text_bytes if rules else 0, bad, counts)


def _batches(
    records: Records, whole: bytes, rules: workloads.WorkloadRules, compress: ports.Compressor
) -> Iterable[scheduler_pb2.NewBatch]:
    """Cuts the serialized items as they are: a batch's payload is a run of records of the whole."""
    overhead = frames.RecordOverheads()
    sizes = [size + overhead[size] for size in [r.ByteSize() for r in records]]
    view = memoryview(whole)
    slices = cutting.cut(sizes, rules.max_batch_items, rules.max_batch_bytes)
    if slices[-1].stop != len(whole):
        raise errors.Internal(f"items of {slices[-1].stop} bytes were serialized to {len(whole)}")
    for piece in slices:
        payload, encoding = _pack(view[piece.start : piece.stop], compress)
        yield scheduler_pb2.NewBatch(
            first_item=piece.first, item_count=piece.count, payload=payload, payload_encoding=encoding
        )


def _identify(batches: Iterable[scheduler_pb2.NewBatch], kind: workloads.Modality, records: Records) -> None:
    """Adds to each batch what its items are recognised by, and their keys: a batch that needs no worker has nobody else
    to read them."""
    if kind is workloads.Modality.TEXT:
        texts = [item for item in records if isinstance(item, item_pb2.TextItem)]
        hashes = identities.of_texts([item.text or item.token_ids.SerializeToString() for item in texts])
    else:
        hashes = identities.of_images([item.data for item in records if isinstance(item, item_pb2.ImageItem)])
    keys = [item.key for item in records]
    for batch in batches:
        first, stop = batch.first_item, batch.first_item + batch.item_count
        batch.identities.hashes = hashes[first * identities.BYTES : stop * identities.BYTES]
        if any(keys[first:stop]):
            batch.identities.keys.extend(keys[first:stop])


def _pack(payload: memoryview, compress: ports.Compressor) -> tuple[bytes, item_pb2.PayloadEncoding]:
    if len(payload) >= MIN_COMPRESSED_BYTES and _is_promising(payload, compress):
        frame = compress(payload)
        if len(frame) < len(payload):
            return frame, item_pb2.PAYLOAD_ENCODING_LZ4_FRAME
    return bytes(payload), item_pb2.PAYLOAD_ENCODING_IDENTITY


def _is_promising(payload: memoryview, compress: ports.Compressor) -> bool:
    if len(payload) < 4 * PROBE_BYTES:
        return True
    # From the middle: what comes first may be the header of a file.
    start = (len(payload) - PROBE_BYTES) // 2
    return len(compress(payload[start : start + PROBE_BYTES])) < PROBE_BYTES * (1 - PROBE_GAIN)


def _digest(admission: scheduler_pb2.AdmitJobRequest, whole: bytes) -> bytes:
    """SHA-256 over length-prefixed parts. How the job is cut is left out: it follows the registry, and the
    same request must stay the same when the registry changes between two tries."""
    window = admission.completion_window
    parts = [
        _DIGEST_VERSION,
        admission.workload.encode(),
        str(admission.modality).encode(),
        str(admission.priority).encode(),
        str(len(admission.labels)).encode(),
        *(text.encode() for pair in sorted(admission.labels.items()) for text in pair),
        admission.options.SerializeToString(deterministic=True),
        str(window.ToNanoseconds()).encode() if admission.HasField("completion_window") else b"",
        *((b"deduplicate",) if admission.deduplicate else ()),
        whole,
    ]
    if admission.HasField("budget_usd"):
        # Only then: what was digested before there were budgets has to stay the same.
        parts += [b"budget_micro_usd", str(round(admission.budget_usd * 1_000_000)).encode()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
