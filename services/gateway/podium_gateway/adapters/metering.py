"""What the gateway counts, for Prometheus. Calls, codes and durations are counted by podium_runtime's
server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
_EMBED_CALLS = Counter(
    "podium_embed_calls_total",
    "Interactive calls ended; the outcome is OK or an error's reason.",
    ["workload", "outcome"],
)
_EMBED_SECONDS = Histogram(
    "podium_embed_seconds",
    "Time of interactive calls that were answered, at the gateway.",
    ["workload"],
    buckets=(0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
)
_EMBED_IN_FLIGHT = Gauge("podium_embed_calls_in_flight", "Interactive calls that wait for their answer.")
_EMBED_CACHE = Counter(
    "podium_embed_cache_items_total", "Items of interactive calls looked up in the cache.", ["found"]
)
_STREAMS = Gauge("podium_gateway_open_streams", "Streams to clients now open.", ["method"])

_HTTP_HANDLED = Counter(
    "podium_gateway_http_handled_total", "HTTP requests answered, by status.", ["route", "method", "status"]
)
_HTTP_SECONDS = Histogram("podium_gateway_http_handling_seconds", "From an HTTP request to its answer.", ["route"])
_HTTP_IN_FLIGHT = Gauge("podium_gateway_http_in_flight", "HTTP requests now being answered.")
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


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

    def embed_began(self) -> None:
        _EMBED_IN_FLIGHT.inc()

    def embed_ended(self, workload: str, outcome: str, seconds: float) -> None:
        _EMBED_IN_FLIGHT.dec()
        _EMBED_CALLS.labels(workload, outcome).inc()
        if outcome == "OK":
            _EMBED_SECONDS.labels(workload).observe(seconds)

    def embed_cached(self, hits: int, misses: int) -> None:
        _EMBED_CACHE.labels("yes").inc(hits)
        _EMBED_CACHE.labels("no").inc(misses)

    def authenticated(self, outcome: str) -> None:
        _TOKENS.labels(outcome).inc()


def open_streams(method: str) -> Gauge:
    """The gauge of a method's open streams."""
    return _STREAMS.labels(method)


def http_handled(route: str, method: str, status: int, seconds: float) -> None:
    """Counts one answered HTTP request."""
    _HTTP_HANDLED.labels(route, method if method in _HTTP_METHODS else "other", status).inc()
    _HTTP_SECONDS.labels(route).observe(seconds)


def http_in_flight() -> Gauge:
    """The gauge of HTTP requests in flight."""
    return _HTTP_IN_FLIGHT
