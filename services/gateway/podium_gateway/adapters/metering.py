"""What the gateway counts, for Prometheus. Calls, codes and durations are counted by podium_runtime's
server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

_ITEMS = Counter("podium_gateway_items_submitted_total", "Items of accepted jobs.")
_BATCHES = Counter("podium_gateway_batches_cut_total", "Batches of accepted jobs.")
_JOBS = Counter("podium_gateway_jobs_submitted_total", "Accepted jobs, without those accepted before.")
_RESULT_BYTES = Counter("podium_gateway_result_bytes_total", "Bytes of result messages sent to clients.")
_RESULT_MESSAGES = Counter("podium_gateway_result_messages_total", "Result messages sent to clients.")
_TOKENS = Counter("podium_gateway_token_lookups_total", "Lookups of app tokens in the cache.", ["outcome"])
_ACKS_IGNORED = Counter(
    "podium_gateway_acks_ignored_total",
    "Acknowledgements of deliveries that were settled already or of another stream.",
)
_STREAMS = Gauge("podium_gateway_open_streams", "Streams to clients now open.", ["method"])


class PrometheusMeter:
    """Counts into the process's registry."""

    def admitted(self, items: int, batches: int) -> None:
        _JOBS.inc()
        _ITEMS.inc(items)
        _BATCHES.inc(batches)

    def relayed(self, size: int) -> None:
        _RESULT_MESSAGES.inc()
        _RESULT_BYTES.inc(size)

    def ack_ignored(self) -> None:
        _ACKS_IGNORED.inc()

    def authenticated(self, outcome: str) -> None:
        _TOKENS.labels(outcome).inc()


def open_streams(method: str) -> Gauge:
    """The gauge of a method's open streams."""
    return _STREAMS.labels(method)
