"""From an Embed request to what a scheduler is asked: checked in one pass, with the field paths of SubmitBatch."""

from __future__ import annotations

from collections.abc import Sequence

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import refusals, submissions
from podium_gateway.domain import items, requests, violations, workloads

Items = Sequence[item_pb2.TextItem] | Sequence[item_pb2.ImageItem]
_CHOICES = "texts, images"


def check(request: gateway_pb2.EmbedRequest, rules: workloads.WorkloadRules | None) -> tuple[Items, int]:
    """The items of a good request, and their bytes. Raises errors.InvalidArgument with every violation."""
    request.DiscardUnknownFields()
    bad = violations.Violations()
    if not request.workload:
        bad.add("workload", "is required")
    elif rules is None:
        bad.add("workload", f"there is no workload {request.workload[:100]!r}; ListWorkloads names those there are")
    if request.HasField("options") and rules is not None:
        requests.check_options(submissions.options_of(request.options), rules, bad)
    found, nbytes = _check_items(request, rules, bad)
    refusals.raise_if_any(bad)
    return found, nbytes


def _check_items(
    request: gateway_pb2.EmbedRequest, rules: workloads.WorkloadRules | None, bad: violations.Violations
) -> tuple[Items, int]:
    name = request.WhichOneof("items")
    kind = workloads.Modality(name) if name else None
    if not items.check_kind(kind, rules, bad, _CHOICES) or kind is None:
        return [], 0
    container = request.texts if kind is workloads.Modality.TEXT else request.images
    nbytes = container.ByteSize()
    if not items.check_call(kind, len(container.items), nbytes, bad):
        return [], 0
    items.check_keys(kind, [item.key for item in container.items], bad)
    if kind is workloads.Modality.TEXT:
        texts = list(request.texts.items)
        submissions.check_texts(texts, rules, bad)
        return texts, nbytes
    images = list(request.images.items)
    urls = [i.url if i.HasField("url") else None for i in images]
    items.check_images(urls, [len(i.data) for i in images], rules.max_image_bytes if rules else 0, bad)
    return images, nbytes


def content(item: item_pb2.TextItem | item_pb2.ImageItem) -> bytes | None:
    """What an item's vector depends on, all but its key; None when it is not in the item."""
    if isinstance(item, item_pb2.TextItem):
        # No text is the token ids that it consists of: whether it would be, its model's tokenizer alone knows.
        return b"t" + item.text.encode() if item.text else b"i" + item.token_ids.SerializeToString()
    return None if item.HasField("url") else b"d" + item.data


def ask(
    app_id: str, request: gateway_pb2.EmbedRequest, chosen: Sequence[int] | None = None
) -> scheduler_pb2.EmbedRequest:
    """What a scheduler is asked: all items, or those at the indices `chosen`. Small, so it is not compressed."""
    asked: item_pb2.TextItems | item_pb2.ImageItems
    if request.HasField("images"):
        images = request.images
        asked = images if chosen is None else item_pb2.ImageItems(items=[images.items[i] for i in chosen])
    else:
        texts = request.texts
        asked = texts if chosen is None else item_pb2.TextItems(items=[texts.items[i] for i in chosen])
    return scheduler_pb2.EmbedRequest(
        app_id=app_id,
        workload=request.workload,
        options=request.options if request.HasField("options") else None,
        payload=asked.SerializeToString(),
        payload_encoding=item_pb2.PAYLOAD_ENCODING_IDENTITY,
        modality=workload_pb2.MODALITY_IMAGE if request.HasField("images") else workload_pb2.MODALITY_TEXT,
        item_count=len(asked.items),
    )
