"""Checks of what gateways send, so that nothing gets as far as the ledger that it cannot hold.

The wire's unsigned numbers are wider than the ledger's, and its strings may contain NUL, which Postgres refuses. A
gateway of ours sends neither; whoever does is told the field.
"""

from __future__ import annotations

from collections.abc import Mapping

from podium.common.v1 import workload_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_runtime import errors
from podium_scheduler.domain import deduplication

MAX_ITEMS = 50_000
MAX_CALL_ITEMS = 64
MAX_WINDOW_S = 3_650 * 86_400
MIN_BUDGET_USD = 0.01
MAX_BUDGET_USD = 1_000_000.0
PRIORITIES = range(1, 6)


def admit_job(request: scheduler_pb2.AdmitJobRequest) -> None:
    """Raises errors.InvalidArgument."""
    bad = [
        *_words("app_id", request.app_id),
        *_words("workload", request.workload),
        *_words("traceparent", request.traceparent),
        *_labels(request.labels),
    ]
    if request.priority not in PRIORITIES:
        bad.append(errors.Violation("priority", f"must be {PRIORITIES.start} to {PRIORITIES.stop - 1}"))
    window = request.completion_window
    if request.HasField("completion_window") and not 0 < window.seconds + window.nanos / 1e9 <= MAX_WINDOW_S:
        bad.append(errors.Violation("completion_window", f"must be above 0 s and at most {MAX_WINDOW_S:,} s"))
    if request.HasField("budget_usd") and not MIN_BUDGET_USD <= request.budget_usd <= MAX_BUDGET_USD:
        bad.append(errors.Violation("budget_usd", f"must be {MIN_BUDGET_USD} to {MAX_BUDGET_USD:,.0f} USD"))
    if sum(batch.item_count for batch in request.batches) > MAX_ITEMS:
        bad.append(errors.Violation("batches", f"must have at most {MAX_ITEMS:,} items together"))
    if request.deduplicate:
        bad += _identities(request)
    _raise(bad)


def _identities(request: scheduler_pb2.AdmitJobRequest) -> list[errors.Violation]:
    bad = []
    if request.modality not in (workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE):
        bad.append(errors.Violation("deduplicate", "is for texts and images"))
    for number, batch in enumerate(request.batches):
        field, given = f"batches[{number}].identities", batch.identities
        if len(given.hashes) != deduplication.BYTES * batch.item_count:
            bad.append(errors.Violation(f"{field}.hashes", f"must be {deduplication.BYTES} bytes for each item"))
        if len(given.keys) not in (0, batch.item_count):
            bad.append(errors.Violation(f"{field}.keys", "must be one for each item, or none"))
    return bad


def list_jobs(request: scheduler_pb2.ListJobsRequest) -> None:
    """Raises errors.InvalidArgument."""
    words = [*_words("app_id", request.app_id), *_words("workload", request.workload)]
    _raise([*words, *_labels(request.labels)])


def job_of_app(app_id: str) -> None:
    """Raises errors.InvalidArgument."""
    _raise(_words("app_id", app_id))


def open_consumer(request: scheduler_pb2.OpenConsumerRequest) -> None:
    """Raises errors.InvalidArgument."""
    named = (("app_id", request.app_id), ("group", request.group), ("workload", request.workload))
    _raise([violation for field, value in named for violation in _words(field, value)])


def embed(request: scheduler_pb2.EmbedRequest) -> None:
    """Raises errors.InvalidArgument."""
    bad = [*_words("app_id", request.app_id), *_words("workload", request.workload)]
    if not 1 <= request.item_count <= MAX_CALL_ITEMS:
        bad.append(errors.Violation("item_count", f"must be 1 to {MAX_CALL_ITEMS}"))
    _raise(bad)


def item(app_id: str, field: str, value: int) -> None:
    """A place among a job's items. Raises errors.InvalidArgument."""
    too_far = errors.Violation(field, f"must be at most {MAX_ITEMS:,}: no job has more items")
    _raise([*_words("app_id", app_id), *([too_far] if value > MAX_ITEMS else [])])


def _words(field: str, value: str) -> list[errors.Violation]:
    return [errors.Violation(field, "must not contain NUL")] if "\x00" in value else []


def _labels(labels: Mapping[str, str]) -> list[errors.Violation]:
    return [v for key in sorted(labels) for v in _words(f"labels[{key!r}]", key + labels[key])]


def _raise(bad: list[errors.Violation]) -> None:
    if bad:
        raise errors.InvalidArgument(bad)
