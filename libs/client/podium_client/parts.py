"""Cutting an input into jobs, lazily, and naming the jobs so that a re-run finds them.

A part is the content of one job. Its request id is a UUIDv5 over everything that decides its result: a
process that was killed and runs again over the same input derives the same ids and so finds its jobs in the
ledger instead of computing them again. Pure: no I/O, no clock, no dice.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any, Literal, TypeVar, cast

from podium.common.v1 import item_pb2
from podium_client.items import TEXTS, Content, Items, Kind, bad_item
from podium_client.text_records import text_items

T = TypeVar("T")
MAX_ITEMS_PER_JOB = 50_000
DEFAULT_ITEMS_PER_JOB = 8_192
DEFAULT_BYTES_PER_JOB = 8 * 1024 * 1024
DEFAULT_IMAGE_BYTES_PER_JOB = 16 * 1024 * 1024
"""Of inline images: several batches in a job, and four jobs in flight take some 200 MB while they are sent."""

# Fixed for ever: another namespace would orphan the jobs of every interrupted run.
_NAMESPACE = uuid.UUID("6f0d1c3e-5b1e-5c0e-9a53-8f3f0f6d9f7b")
_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Part:
    """One job's worth of items. `first_item`: index of its first item in the whole input."""

    ordinal: int
    first_item: int
    keys: tuple[str, ...] | None
    items: Items

    @property
    def item_count(self) -> int:
        """Items in it."""
        return len(self.items.items)

    @property
    def kind(self) -> Literal["texts", "images"]:
        """The member of SubmitBatchRequest that takes them."""
        return "texts" if isinstance(self.items, item_pb2.TextItems) else "images"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the jobs of one call have in common."""

    workload: str
    options: item_pb2.EmbeddingOptions
    priority: int | None = None
    labels: Mapping[str, str] | None = None
    run: str | None = None
    deduplicate: bool = False
    budget_usd: float | None = None
    """Of each job."""


def cut(
    inputs: Iterable[T],
    keys: Iterable[str] | None = None,
    *,
    kind: Kind[T],
    max_items: int = DEFAULT_ITEMS_PER_JOB,
    max_bytes: int = DEFAULT_BYTES_PER_JOB,
) -> Iterator[Part]:
    """Cut the input into parts of at most `max_items` items and `max_bytes` bytes (of UTF-8 text, of URLs, of inline
    images); an item larger than that is a part of its own. Reads no further ahead than the item that begins the next
    part.

    ValueError: bounds out of range, or not as many keys as inputs. InvalidInput: an input or key that cannot be one.
    """
    if not 1 <= max_items <= MAX_ITEMS_PER_JOB:
        raise ValueError(f"items per job: 1 to {MAX_ITEMS_PER_JOB:,}, not {max_items:,}")
    if max_bytes < 1:
        raise ValueError(f"bytes per job: at least 1, not {max_bytes:,}")
    ordinal, first, size, batch, batch_keys = 0, 0, 0, kind.empty(), list[str]()
    left: Iterable[Any] = inputs
    if kind is TEXTS and keys is None:
        ordinal, first, left = yield from _text_parts(inputs, max_items, max_bytes)
    # What is left, and whatever has to be looked at item by item.
    for index, (content, key) in enumerate(_read(left, keys, kind, first), first):
        if batch.items and (len(batch.items) >= max_items or size + content.size > max_bytes):
            yield Part(ordinal, first, tuple(batch_keys) if keys is not None else None, batch)
            ordinal, first, size, batch, batch_keys = ordinal + 1, index, 0, kind.empty(), []
        add(batch, content, key)
        if keys is not None:
            batch_keys.append(key)
        size += content.size
    if batch.items:
        yield Part(ordinal, first, tuple(batch_keys) if keys is not None else None, batch)


def _text_parts(
    inputs: Iterable[Any], max_items: int, max_bytes: int
) -> Generator[Part, None, tuple[int, int, Iterable[Any]]]:
    """The parts for as long as every item is a str. Returns how many parts and items that is, and the rest."""
    ordinal = first = 0
    if isinstance(inputs, list | tuple):
        for items in _whole_parts(inputs, max_items, max_bytes):
            yield Part(ordinal, first, None, items)
            ordinal, first = ordinal + 1, first + len(items.items)
    texts, held, size = islice(inputs, first, None), list[Any](), 0
    for text in texts:
        octets = _octets(text)
        if octets is None:
            return ordinal, first, chain(held, (text,), texts)
        if held and (len(held) >= max_items or size + octets > max_bytes):
            yield Part(ordinal, first, None, _packed(held))
            ordinal, first, size, held = ordinal + 1, first + len(held), 0, []
        held.append(text)
        size += octets
    if held:
        yield Part(ordinal, first, None, _packed(held))
    return ordinal, first, ()


def _octets(text: object) -> int | None:
    """Of a str in UTF-8; None of anything else."""
    if type(text) is not str:
        return None
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return None


def _packed(texts: Sequence[str]) -> item_pb2.TextItems:
    items = text_items(texts)
    assert items is not None, "each is a str and has UTF-8"
    return items


def _whole_parts(texts: Sequence[Any], max_items: int, max_bytes: int) -> Iterator[item_pb2.TextItems]:
    """The first parts of a sequence, for as long as each is full, or the last, and within its bytes."""
    for start in range(0, len(texts), max_items):
        items = text_items(texts[start : start + max_items], max_bytes)
        if items is None:
            return
        yield items


def _read(
    inputs: Iterable[T], keys: Iterable[str] | None, kind: Kind[T], first: int = 0
) -> Iterator[tuple[Content, str]]:
    read = kind.read
    if keys is None:
        for index, value in enumerate(inputs, first):
            yield read(index, value), ""
        return
    for index, (value, key) in enumerate(zip_longest(inputs, keys, fillvalue=_MISSING)):
        if value is _MISSING or key is _MISSING:
            raise ValueError(f"keys: one for each item is needed; they differ from item {index:,} on")
        if not isinstance(key, str):
            raise bad_item(kind.name, index, "key", f"a str is needed, not {type(key).__name__}")
        yield read(index, cast(T, value)), key


def add(items: Items, content: Content, key: str) -> None:
    """Append one item."""
    items.items.add(key=key, **{content.field: content.value})


def whole(inputs: Iterable[T], keys: Iterable[str] | None, kind: Kind[T]) -> Items:
    """All of the input as the items of one job, however many. Errors as in `cut`."""
    if kind is TEXTS and keys is None and isinstance(inputs, list | tuple):
        texts = text_items(inputs)
        if texts is not None:
            return texts
    items = kind.empty()
    for content, key in _read(inputs, keys, kind):
        add(items, content, key)
    return items


def request_id(spec: JobSpec, part: Part) -> uuid.UUID:
    """The request id of a part's first submission."""
    identity: dict[str, Any] = {
        "workload": spec.workload,
        "options": spec.options.SerializeToString(deterministic=True).hex(),
        "priority": spec.priority,
        "labels": sorted((spec.labels or {}).items()),
        "run": spec.run,
        "part": part.ordinal,
        "content": hashlib.sha256(part.items.SerializeToString(deterministic=True)).hexdigest(),
    }
    if part.kind != "texts":
        # A text and a URL have the same bytes on the wire. Of texts it is not said: their ids never change.
        identity["kind"] = part.kind
    if spec.budget_usd is not None:
        identity["budget_usd"] = spec.budget_usd
    if spec.deduplicate:
        identity["deduplicate"] = True
    return uuid.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True))


def rerun_request_id(first: uuid.UUID, first_job_id: str, generation: int) -> uuid.UUID:
    """The request id of the `generation`th re-run (from 1) of a part whose first job can no longer be read."""
    return uuid.uuid5(first, f"{first_job_id}/{generation}")
