"""Rules for the fields of requests that are not items: identifiers, labels, priority, options, windows,
pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium_gateway.domain import violations, workloads

DEFAULT_PRIORITY = 3
MAX_PRIORITY = 5
MAX_LABELS = 32
MAX_LABEL_VALUE_BYTES = 256
MIN_WINDOW_S = 1.0
MAX_WINDOW_S = 3650 * 86_400.0
MIN_BUDGET_USD = 0.01
MAX_BUDGET_USD = 1_000_000.0
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
MAX_WINDOW = 1000

# Numbers of podium.common.v1 enums; a test holds them against the generated ones.
INPUT_TYPES = frozenset({1, 2})
DTYPES = {1: "FLOAT32", 2: "FLOAT16", 3: "INT8", 4: "BINARY"}

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_GROUP = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")


@dataclass(frozen=True, slots=True)
class Options:
    """EmbeddingOptions as sent: None where the field is unset; numbers as on the wire."""

    input_type: int | None = None
    dimensions: int | None = None
    dtype: int | None = None


def check_uuid(path: str, text: str, bad: violations.Violations) -> str:
    """Returns the UUID in its canonical, lower-case form."""
    if not text:
        bad.add(path, "is required")
    elif not _UUID.fullmatch(text):
        bad.add(path, "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000")
    return text.lower()


def check_priority(priority: int | None, bad: violations.Violations) -> int:
    """Returns the priority, the default when unset."""
    if priority is None:
        return DEFAULT_PRIORITY
    if not 1 <= priority <= MAX_PRIORITY:
        bad.add("priority", f"must be 1 (soonest) to {MAX_PRIORITY}, not {priority}")
    return priority


def check_labels(labels: Mapping[str, str], bad: violations.Violations) -> None:
    """Checks the labels of a job or of a filter."""
    if len(labels) > MAX_LABELS:
        bad.add("labels", f"holds {len(labels)} labels; at most {MAX_LABELS} are allowed")
    for key in sorted(labels):
        if not _LABEL_KEY.fullmatch(key):
            bad.add(f"labels[{key}]", "the key must match ^[a-z0-9][a-z0-9._/-]{0,62}$")
        size = len(labels[key].encode())
        if size > MAX_LABEL_VALUE_BYTES:
            bad.add(f"labels[{key}]", f"the value is {size} bytes; at most {MAX_LABEL_VALUE_BYTES} are allowed")


def check_window(seconds: float | None, bad: violations.Violations) -> None:
    """Checks completion_window, in seconds; None when unset."""
    if seconds is None:
        return
    if seconds < MIN_WINDOW_S:
        bad.add("completion_window", "must be at least 1 s")
    elif seconds > MAX_WINDOW_S:
        bad.add("completion_window", "must be at most 3,650 days; leave it unset for no deadline")


def check_budget(usd: float, bad: violations.Violations) -> None:
    """Checks budget_usd; NaN and the infinities are out of range too."""
    if not MIN_BUDGET_USD <= usd <= MAX_BUDGET_USD:
        bad.add("budget_usd", f"must be {MIN_BUDGET_USD} to {MAX_BUDGET_USD:,.0f} USD; leave it unset for no budget")


def check_deduplicate(asked: bool, kind: workloads.Modality | None, bad: violations.Violations) -> None:
    """Checks that only texts and images are to be computed once."""
    if asked and kind is workloads.Modality.TASK:
        bad.add("deduplicate", "is for texts and images; what a task does may depend on more than its input")


def check_options(options: Options, rules: workloads.WorkloadRules, bad: violations.Violations) -> None:
    """Checks the options against what the workload and this version can do."""
    if options.input_type is not None:
        if options.input_type not in INPUT_TYPES:
            bad.add("options.input_type", "must be QUERY or PASSAGE; leave it unset for the workload's default")
        elif not rules.has_prefixes:
            bad.add(
                "options.input_type",
                f"workload {rules.name!r} treats queries and passages alike; leave it unset",
            )
    if options.dimensions is not None:
        _check_dimensions(options.dimensions, rules, bad)
    if options.dtype is not None:
        _check_dtype(options.dtype, rules, bad)


def _check_dimensions(asked: int, rules: workloads.WorkloadRules, bad: violations.Violations) -> None:
    allowed = (*rules.truncated_dimensions, rules.dimension)
    if asked in allowed:
        return
    if not rules.truncated_dimensions:
        why = (
            f"vectors of workload {rules.name!r} cannot be truncated; leave it unset for all {rules.dimension} elements"
        )
    else:
        why = f"workload {rules.name!r} has vectors of {_either(allowed)} elements, not {asked}"
    bad.add("options.dimensions", why)


def _check_dtype(asked: int, rules: workloads.WorkloadRules, bad: violations.Violations) -> None:
    if asked in rules.dtypes and asked in DTYPES:
        return
    offered = _either([name for number, name in DTYPES.items() if number in rules.dtypes])
    if asked in DTYPES:
        bad.add("options.dtype", f"workload {rules.name!r} has vectors of {offered}, not {DTYPES[asked]}")
    else:
        bad.add("options.dtype", f"must be {offered}; leave it unset for FLOAT32")


def _either(names: Sequence[object]) -> str:
    """Names in a sentence: `a`, `a or b`, `a, b or c`."""
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last


def check_hello(group: str, window: int, bad: violations.Violations) -> None:
    """Checks a consumer's first frame, apart from its workload."""
    if not group:
        bad.add("hello.group", "is required")
    elif not _GROUP.fullmatch(group):
        bad.add("hello.group", "must match ^[a-z0-9][a-z0-9._-]{0,62}$")
    if not 1 <= window <= MAX_WINDOW:
        bad.add("hello.window", f"must be 1 to {MAX_WINDOW:,}, not {window:,}")


def check_page_size(size: int, bad: violations.Violations) -> int:
    """Returns the page size, the default when 0."""
    if size > MAX_PAGE_SIZE:
        bad.add("page_size", f"must be at most {MAX_PAGE_SIZE:,}, not {size:,}")
    return size or DEFAULT_PAGE_SIZE
