"""Gauges about the whole system, read from the ledger. Only the leader has them, so that a sum counts nothing twice."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from podium_runtime import clock
from podium_scheduler.app import loops, ports

_INTERVAL_S = 5.0
WAITING = Gauge("podium_queue_pending_batches", "Batches that wait in the ledger.", ["workload"])
AGE = Gauge("podium_queue_oldest_age_seconds", "Age of the oldest job with waiting batches.", ["workload"])
DEPTH = Gauge("podium_queue_stream_batches", "References in the work stream.", ["workload"])
CREDITS = Gauge("podium_queue_credits", "Credits of all open sessions.", ["workload"])
JOBS = Gauge("podium_jobs", "Unfinished jobs in the ledger.", ["state"])
BATCHES = Gauge("podium_batches", "Unfinished batches in the ledger.", ["state"])


def forget() -> None:
    """Takes the gauges back: another replica leads."""
    for gauge in (WAITING, AGE, DEPTH, CREDITS, JOBS, BATCHES):
        gauge.clear()


class QueueMetrics(loops.PatientLoop):
    """Sets the gauges."""

    name = "queue_metrics"

    def __init__(
        self,
        batches: ports.BatchLedger,
        sessions: ports.SessionLedger,
        buffer: ports.WorkBuffer,
        workloads: Sequence[str],
        time: clock.Clock,
    ) -> None:
        super().__init__()
        self._batches = batches
        self._sessions = sessions
        self._buffer = buffer
        self._workloads = workloads
        self._clock = time

    async def round(self) -> float:
        """Reads and sets."""
        waiting = {d.workload: d for d in await self._batches.depths()}
        depths = await self._buffer.depths(self._workloads)
        credits = await self._sessions.credits()
        for workload in self._workloads:
            found = waiting.get(workload)
            WAITING.labels(workload).set(found.batches_pending if found else 0)
            oldest = found.oldest_create_time if found else None
            AGE.labels(workload).set(max(0.0, (self._clock.now() - oldest).total_seconds()) if oldest else 0.0)
            DEPTH.labels(workload).set(depths[workload])
            CREDITS.labels(workload).set(credits.get(workload, 0))
        jobs, batches = await self._batches.counts()
        for state, count in jobs.items():
            JOBS.labels(state).set(count)
        for state, count in batches.items():
            BATCHES.labels(state).set(count)
        return _INTERVAL_S
