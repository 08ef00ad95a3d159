"""Rules for the items of a job.

A good job costs a few C-level passes over its lists (lengths, a set of keys); only a job that fails such a
pass is walked item by item to name the culprits. That keeps a text's share of validation well under a
microsecond.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from podium_gateway.domain import violations, workloads

MAX_ITEMS = 50_000
MAX_CALL_ITEMS = 64
"""Of an interactive call."""
MAX_CALL_BYTES = 16 << 20
"""Of an interactive call: whatever else waits for a worker waits behind it on the wire."""
MAX_KEY_BYTES = 256
MAX_UTF8_BYTES_PER_CHARACTER = 4
MAX_URL_BYTES = 8 << 10
MAX_INLINE_BYTES = 32 << 20
"""Of an image that is sent inline, whatever its workload allows: it may be a batch of its own, and that one frame."""

_SCHEMES = ("http://", "https://", "s3://")
# Whatever the worker makes of the rest: a scheme that it fetches, something that can be a host, no control characters.
_URL = re.compile(r"(?:https?|s3)://[^/?#\x00-\x20\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*")


def check_kind(
    given: workloads.Modality | None,
    rules: workloads.WorkloadRules | None,
    bad: violations.Violations,
    choices: str = "texts, images, tasks",
) -> bool:
    """Whether there are items of a kind that the workload takes; an unknown workload takes any."""
    if given is None:
        bad.add("items", f"is required: one of {choices}")
        return False
    if rules is not None and given not in rules.modalities:
        taken = " or ".join(sorted(m.value for m in rules.modalities))
        bad.add(given.value, f"workload {rules.name!r} takes {taken}, not {given.value}")
        return False
    return True


def check_count(kind: workloads.Modality, count: int, bad: violations.Violations) -> bool:
    """Whether the number of items is within bounds."""
    if count == 0:
        bad.add("items", f"{kind.value}.items is empty; a job has 1 to {MAX_ITEMS:,} items")
        return False
    if count > MAX_ITEMS:
        bad.add(f"{kind.value}.items", f"holds {count:,} items; a job has at most {MAX_ITEMS:,}: send several")
        return False
    return True


def check_call(kind: workloads.Modality, count: int, nbytes: int, bad: violations.Violations) -> bool:
    """Whether the items of an interactive call, serialized to `nbytes`, are within bounds."""
    if count == 0:
        bad.add("items", f"{kind.value}.items is empty; a call has 1 to {MAX_CALL_ITEMS} items")
        return False
    if count > MAX_CALL_ITEMS:
        bad.add(f"{kind.value}.items", f"holds {count:,} items; a call has at most {MAX_CALL_ITEMS}: use SubmitBatch")
        return False
    if nbytes > MAX_CALL_BYTES:
        bad.add(f"{kind.value}.items", f"is {nbytes:,} bytes; a call has at most {MAX_CALL_BYTES:,}: use SubmitBatch")
        return False
    return True


def check_keys(kind: workloads.Modality, keys: Sequence[str], bad: violations.Violations) -> None:
    """Checks that keys are short, and unique unless empty."""
    if max(map(len, keys)) * MAX_UTF8_BYTES_PER_CHARACTER > MAX_KEY_BYTES:
        _name_long_keys(kind, keys, bad)
    named = list(filter(None, keys))
    if len(set(named)) != len(named):
        _name_duplicate_keys(kind, keys, bad)


def _name_long_keys(kind: workloads.Modality, keys: Sequence[str], bad: violations.Violations) -> None:
    for index, key in enumerate(keys):
        size = len(key.encode())
        if size > MAX_KEY_BYTES:
            bad.add(f"{kind.value}.items[{index}].key", f"is {size} bytes; at most {MAX_KEY_BYTES} are allowed")
        if bad.full:
            return


def _name_duplicate_keys(kind: workloads.Modality, keys: Sequence[str], bad: violations.Violations) -> None:
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key and first.setdefault(key, index) != index:
            bad.add(f"{kind.value}.items[{index}].key", f"{key!r} is also the key of item {first[key]}")
        if bad.full:
            return


def may_have_token_ids(texts: Sequence[str], rules: workloads.WorkloadRules | None) -> bool:
    """Whether it has to be looked whether any of these items has token ids, which is not free: beside or in place of a
    text where a workload takes them, only in place of one where it does not."""
    return rules is None or rules.accepts_token_ids or not all(texts)


def check_token_ids(
    counts: Sequence[int | None],
    texts: Sequence[str],
    rules: workloads.WorkloadRules | None,
    bad: violations.Violations,
) -> None:
    """Checks how many token ids items have (None: they have text). No text has more tokens than bytes."""
    most = rules.max_text_bytes if rules else 0
    for index, count in enumerate(counts):
        path = f"texts.items[{index}].token_ids"
        if count is None:
            continue
        if rules is not None and not rules.accepts_token_ids:
            bad.add(path, f"workload {rules.name!r} takes no token ids: send the text")
        elif texts[index]:
            bad.add(path, "is given beside a text; an item has one of them")
        elif not count:
            bad.add(path, "is empty")
        elif most and count > most:
            bad.add(path, f"holds {count:,} token ids; the workload's limit is {most:,}")
        if bad.full:
            return


def check_texts(
    texts: Sequence[str], max_bytes: int, bad: violations.Violations, counts: Sequence[int | None] = ()
) -> None:
    """Checks that each text has 1 to `max_bytes` UTF-8 bytes (0: no upper limit).

    `counts`: of token ids, which items may have in place of a text (None: an item has none); empty: no item has any.
    """
    lengths = list(map(len, texts))
    may_be_long = max_bytes and max(lengths) * MAX_UTF8_BYTES_PER_CHARACTER > max_bytes
    if min(lengths) > 0 and not may_be_long:
        return
    for index, text in enumerate(texts):
        if not text:
            if not counts or counts[index] is None:
                bad.add(f"texts.items[{index}].text", "is empty")
        elif max_bytes and lengths[index] * MAX_UTF8_BYTES_PER_CHARACTER > max_bytes:
            _check_size(f"texts.items[{index}].text", len(text.encode()), max_bytes, bad)
        if bad.full:
            return


def check_images(urls: Sequence[str | None], sizes: Sequence[int], max_bytes: int, bad: violations.Violations) -> None:
    """Checks images given by URL (None: inline bytes, whose size is in `sizes`; 0: neither)."""
    for index, (url, size) in enumerate(zip(urls, sizes, strict=True)):
        if url is None and size == 0:
            bad.add(f"images.items[{index}].image", "is required: url or data")
        elif url is None:
            _check_inline(f"images.items[{index}].data", size, max_bytes, bad)
        elif wrong := _url_problem(url):
            bad.add(f"images.items[{index}].url", wrong)
        if bad.full:
            return


def _check_inline(path: str, size: int, max_bytes: int, bad: violations.Violations) -> None:
    if size > MAX_INLINE_BYTES and (not max_bytes or size <= max_bytes):
        bad.add(path, f"is {size:,} bytes; at most {MAX_INLINE_BYTES:,} can be sent inline: give its url instead")
    else:
        _check_size(path, size, max_bytes, bad)


def _url_problem(url: str) -> str:
    """What is wrong with a URL, as far as its text tells; empty when nothing is."""
    if len(url) * MAX_UTF8_BYTES_PER_CHARACTER > MAX_URL_BYTES and len(url.encode()) > MAX_URL_BYTES:
        return f"is {len(url.encode()):,} bytes; at most {MAX_URL_BYTES:,} are allowed"
    if _URL.fullmatch(url):
        return ""
    if not url.startswith(_SCHEMES):
        return "must begin with http://, https:// or s3://"
    if _URL.match(url):
        return "holds a control character; percent-encode it"
    return "names no host (or, with s3://, no bucket)"


def check_tasks(sizes: Sequence[int], max_bytes: int, bad: violations.Violations) -> None:
    """Checks the sizes of task inputs, in bytes; what they hold is the handler's business, and nothing may be
    enough."""
    for index, size in enumerate(sizes):
        _check_size(f"tasks.items[{index}].input", size, max_bytes, bad)
        if bad.full:
            return


def _check_size(path: str, size: int, limit: int, bad: violations.Violations) -> None:
    if limit and size > limit:
        bad.add(path, f"is {size:,} bytes; the workload's limit is {limit:,}")
