"""What the worker counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from podium_worker.app import ports
from podium_worker.domain import health

_STAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)

BATCHES = Counter("podium_worker_batches", "Batches by outcome.", ("workload", "outcome"))
ITEMS = Counter("podium_worker_items", "Items by outcome.", ("workload", "outcome"))
TOKENS = Counter("podium_worker_tokens", "Tokens read, padding not included.", ("workload",))
STAGE = Histogram(
    "podium_worker_stage_seconds",
    "Time of a batch in a stage: fetch (with decoding), wait, prepare, compute, send (until its Ack).",
    ("workload", "stage"),
    buckets=_STAGES,
)
CALLS = Counter("podium_worker_calls", "Interactive calls computed.", ("workload",))
CALL_ITEMS = Counter("podium_worker_call_items", "Items of interactive calls computed.", ("workload",))
BUSY = Counter("podium_worker_device_busy_seconds", "Time that devices computed.")
IDLE = Counter("podium_worker_device_idle_seconds", "Time that devices waited for a prepared batch.")
MODEL_LOADS = Counter("podium_worker_model_loads", "Model loads by outcome.", ("workload", "outcome"))
MODEL_LOAD_SECONDS = Gauge("podium_worker_model_load_seconds", "Time of the last load.", ("workload",))
SESSIONS = Counter("podium_worker_sessions", "Sessions that the scheduler welcomed.")
CONNECT_FAILURES = Counter("podium_worker_connect_failures", "Sessions that ended or never began, for a failure.")
EXECUTOR_RESTARTS = Counter("podium_worker_executor_restarts", "Executor processes that died.", ("device",))
FENCED = Counter("podium_worker_fenced", "Times that all leases were dropped for want of the scheduler's word.")


HUNG = Counter("podium_worker_executors_hung", "Executor processes killed because they did not move.", ("device",))
CANARIES = Counter(
    "podium_worker_canaries", "Canaries of models that were in use, by outcome.", ("workload", "outcome")
)
COMPUTED = Counter(
    "podium_worker_items_computed", "Items that went through a model, those of dropped batches too.", ("workload",)
)


EVICTIONS = Counter("podium_worker_model_evictions", "Models that made room for others.", ("workload",))
DEVICE_MEMORY = Gauge("podium_worker_device_memory_bytes", "Device memory.", ("device", "kind"))
DEVICE_UTILIZATION = Gauge("podium_worker_device_utilization_ratio", "Busy share of a device, 0 to 1.", ("device",))
DEVICE_TEMPERATURE = Gauge("podium_worker_device_temperature_celsius", "Temperature of a device.", ("device",))
DEVICE_POWER = Gauge("podium_worker_device_power_watts", "Power that a device draws.", ("device",))
DEVICE_ECC_ERRORS = Gauge("podium_worker_device_ecc_errors", "Uncorrected memory errors of a device.", ("device",))
DEVICE_XIDS = Counter("podium_worker_device_xids", "XID errors of a device.", ("device",))


FETCHES = Counter("podium_worker_fetches", "Images fetched by URL, by outcome; retries too.", ("outcome",))


def image_fetched(outcome: str) -> None:
    """A fetch ended, or is tried again."""
    FETCHES.labels(outcome).inc()


class PrometheusObserver:
    """ports.Observer on the process's registry."""

    def batch_done(self, workload: str, items: int, result: ports.Result) -> None:
        BATCHES.labels(workload, "done").inc()
        ITEMS.labels(workload, "succeeded").inc(items - result.items_failed)
        ITEMS.labels(workload, "failed").inc(result.items_failed)
        ITEMS.labels(workload, "truncated").inc(result.items_truncated)
        TOKENS.labels(workload).inc(result.tokens)
        if result.fetch_s:
            STAGE.labels(workload, "fetch").observe(result.fetch_s)
        STAGE.labels(workload, "wait").observe(result.wait_s)
        STAGE.labels(workload, "prepare").observe(result.prepare_s)
        STAGE.labels(workload, "compute").observe(result.compute_s)
        BUSY.inc(result.compute_s)
        IDLE.inc(result.idle_s)

    def batch_acknowledged(self, workload: str, ack_s: float) -> None:
        STAGE.labels(workload, "send").observe(ack_s)

    def batch_failed(self, workload: str, failure: ports.Failure) -> None:
        BATCHES.labels(workload, "handed_back" if failure.handed_back else failure.reason.lower()).inc()

    def call_done(self, workload: str, items: int, seconds: float) -> None:
        CALLS.labels(workload).inc()
        CALL_ITEMS.labels(workload).inc(items)
        BUSY.inc(seconds)

    def model_loaded(self, workload: str, seconds: float) -> None:
        MODEL_LOADS.labels(workload, "loaded").inc()
        MODEL_LOAD_SECONDS.labels(workload).set(seconds)

    def model_unavailable(self, workload: str) -> None:
        MODEL_LOADS.labels(workload, "unavailable").inc()

    def executor_lost(self, device: int, *, hung: bool) -> None:
        EXECUTOR_RESTARTS.labels(str(device)).inc()
        HUNG.labels(str(device)).inc(int(hung))

    def items_computed(self, workload: str, items: int) -> None:
        COMPUTED.labels(workload).inc(items)

    def batch_dropped(self, workload: str) -> None:
        BATCHES.labels(workload, "dropped").inc()

    def model_unloaded(self, workload: str) -> None:
        EVICTIONS.labels(workload).inc()

    def device_read(self, reading: health.Reading) -> None:
        device = str(reading.index)
        DEVICE_MEMORY.labels(device, "used").set(reading.vram_used_bytes)
        DEVICE_MEMORY.labels(device, "free").set(reading.vram_free_bytes)
        known = (
            (DEVICE_UTILIZATION, None if reading.utilization_percent is None else reading.utilization_percent / 100),
            (DEVICE_TEMPERATURE, reading.temperature_c),
            (DEVICE_POWER, reading.power_w),
            (DEVICE_ECC_ERRORS, reading.ecc_errors),
        )
        for gauge, value in known:
            if value is not None:
                gauge.labels(device).set(value)
        DEVICE_XIDS.labels(device).inc(len(reading.xids))

    def canary(self, workload: str, *, passed: bool) -> None:
        CANARIES.labels(workload, "passed" if passed else "failed").inc()
