"""Cutting an input into jobs, lazily, and naming the jobs so that a re-run finds them.

A part is the content of one job. Its request id is a UUIDv5 over everything that decides its result: a
process that was killed and runs again over the same input derives the same ids and so finds its jobs in the
ledger instead of computing them again. Pure: no I/O, no clock, no dice.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from podium.common.v1 import item_pb2
from podium_client.errors import InvalidInput, Violation

MAX_ITEMS_PER_JOB = 50_000
DEFAULT_ITEMS_PER_JOB = 8_192
DEFAULT_BYTES_PER_JOB = 8 * 1024 * 1024

# Fixed for ever: another namespace would orphan the jobs of every interrupted run.
_NAMESPACE = uuid.UUID("6f0d1c3e-5b1e-5c0e-9a53-8f3f0f6d9f7b")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Part:
    """One job's worth of items. `first_item`: index of its first item in the whole input."""

    ordinal: int
    first_item: int
    keys: tuple[str, ...] | None
    items: item_pb2.TextItems

    @property
    def item_count(self) -> int:
        """Items in it."""
        return len(self.items.items)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the jobs of one call have in common."""

    workload: str
    options: item_pb2.EmbeddingOptions
    priority: int | None = None
    labels: Mapping[str, str] | None = None
    run: str | None = None


def _bad(index: int, field: str, description: str) -> InvalidInput:
    path = f"texts.items[{index}].{field}"
    return InvalidInput(f"{path}: {description}", [Violation(path, description, index)])


def _check_text(index: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise _bad(index, "text", f"a str is needed, not {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _bad(index, "text", f"not encodable as UTF-8: {error.reason}") from error


def cut(
    texts: Iterable[str],
    keys: Iterable[str] | None = None,
    *,
    max_items: int = DEFAULT_ITEMS_PER_JOB,
    max_bytes: int = DEFAULT_BYTES_PER_JOB,
) -> Iterator[Part]:
    """Cut the input into parts of at most `max_items` items and `max_bytes` UTF-8 bytes; a text larger than
    that is a part of its own. Reads no further ahead than the text that begins the next part.

    ValueError: bounds out of range, or not as many keys as texts. InvalidInput: a text or key that is no
    string.
    """
    if not 1 <= max_items <= MAX_ITEMS_PER_JOB:
        raise ValueError(f"items per job: 1 to {MAX_ITEMS_PER_JOB:,}, not {max_items:,}")
    if max_bytes < 1:
        raise ValueError(f"bytes per job: at least 1, not {max_bytes:,}")
    ordinal, first, size, batch, batch_keys = 0, 0, 0, item_pb2.TextItems(), list[str]()
    pairs = ((text, "") for text in texts) if keys is None else zip_longest(texts, keys, fillvalue=_MISSING)
    for index, (text, key) in enumerate(pairs):
        if text is _MISSING or key is _MISSING:
            raise ValueError(f"keys: one for each text is needed; they differ from item {index:,} on")
        if not isinstance(key, str):
            raise _bad(index, "key", f"a str is needed, not {type(key).__name__}")
        length = len(_check_text(index, text))
        if batch.items and (len(batch.items) >= max_items or size + length > max_bytes):
            yield Part(ordinal, first, tuple(batch_keys) if keys is not None else None, batch)
            ordinal, first, size, batch, batch_keys = ordinal + 1, index, 0, item_pb2.TextItems(), []
        batch.items.add(key=key, text=text)
        if keys is not None:
            batch_keys.append(key)
        size += length
    if batch.items:
        yield Part(ordinal, first, tuple(batch_keys) if keys is not None else None, batch)


def request_id(spec: JobSpec, part: Part) -> uuid.UUID:
    """The request id of a part's first submission."""
    identity = {
        "workload": spec.workload,
        "options": spec.options.SerializeToString(deterministic=True).hex(),
        "priority": spec.priority,
        "labels": sorted((spec.labels or {}).items()),
        "run": spec.run,
        "part": part.ordinal,
        "content": hashlib.sha256(part.items.SerializeToString(deterministic=True)).hexdigest(),
    }
    return uuid.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True))


def rerun_request_id(first: uuid.UUID, first_job_id: str, generation: int) -> uuid.UUID:
    """The request id of the `generation`th re-run (from 1) of a part whose first job can no longer be read."""
    return uuid.uuid5(first, f"{first_job_id}/{generation}")
