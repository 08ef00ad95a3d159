"""What a worker says about itself on its metrics endpoint, between two moments."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import parser

STAGES = ("fetch", "wait", "prepare", "compute", "send")
_FAMILY = "podium_worker_"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters, all growing. `sums` and `counts`: seconds of, and batches in, each stage of all workloads."""

    busy_s: float = 0.0
    idle_s: float = 0.0
    tokens: float = 0.0
    """Read, padding not included."""
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """From one reading to a later one."""

    first: Reading
    last: Reading

    @property
    def busy_s(self) -> float:
        """Device seconds that went into computing."""
        return self.last.busy_s - self.first.busy_s

    @property
    def idle_s(self) -> float:
        """Device seconds that went into waiting for a batch."""
        return self.last.idle_s - self.first.idle_s


async def read(address: str) -> Reading:
    """Of the endpoint at `host:port`."""
    return await asyncio.to_thread(_read, f"http://{address}/metrics")


def waited(spans: Sequence[Span]) -> float:
    """Share of the time, 0 to 1, in which the device waited; 0 when no batch was measured."""
    idle, busy = sum(span.idle_s for span in spans), sum(span.busy_s for span in spans)
    return idle / (idle + busy) if idle + busy > 0 else 0.0


def stages(spans: Sequence[Span]) -> dict[str, float]:
    """Mean seconds of a batch in each stage that any batch went through."""
    found = {}
    for stage in STAGES:
        batches = sum(_grown(span.first.counts, span.last.counts, stage) for span in spans)
        if batches:
            found[stage] = sum(_grown(span.first.sums, span.last.sums, stage) for span in spans) / batches
    return found


def _grown(first: Mapping[str, float], last: Mapping[str, float], stage: str) -> float:
    return last.get(stage, 0.0) - first.get(stage, 0.0)


def _read(url: str) -> Reading:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
        text: str = reply.read().decode()
    # Stages by their name, what has none under "".
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name.removeprefix(_FAMILY)][sample.labels.get("stage", "")] += sample.value
    return Reading(
        busy_s=found["device_busy_seconds_total"][""],
        idle_s=found["device_idle_seconds_total"][""],
        tokens=found["tokens_total"][""],
        sums=dict(found["stage_seconds_sum"]),
        counts=dict(found["stage_seconds_count"]),
    )
