"""The pod janitor: forgets pods that are long over, and tells of those that nobody watches. Runs on the leader only.

A pod is kept as long as a job that it computed for is in the ledger, because that job's cost is told of its bill; and
for two days at the least, because the bill of today has the pods that ended today. A pod whose life is not over and
whose provider is not configured any more bills on without anybody's watching it: it is told of in the log, in a gauge
and in what operators are shown, until it is configured again or an operator has seen to it at the provider. Each
round is a bounded step that may be repeated. Clock: the ledger's.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from prometheus_client import Counter, Gauge

from podium_runtime import logs
from podium_scheduler.app import loops, ports

log = logs.get_logger(__name__)

_INTERVAL_S = 60.0
_BREATH_S = 0.02
_PAGE = 500
LEAST = timedelta(days=2)
FORGOTTEN = Counter("podium_pods_forgotten_total", "Pods of the past that left the ledger.")
UNWATCHED = Gauge(
    "podium_pods_unwatched", "Pods whose life is not over and whose provider is not configured.", ["provider"]
)


def forget() -> None:
    """Takes back what only a leader says."""
    UNWATCHED.clear()


class PodJanitor(loops.PatientLoop):
    """Forgets and tells."""

    name = "pod_janitor"

    def __init__(self, ledger: ports.PodLedger, configured: Collection[str], retention: timedelta) -> None:
        """`configured`: providers that are watched. `retention`: of jobs, from their end."""
        super().__init__()
        self._ledger = ledger
        self._configured = frozenset(configured)
        self._retention = max(retention, LEAST)
        self._told: frozenset[UUID] = frozenset()

    async def round(self) -> float:
        """One look and one step."""
        await self._tell()
        gone = await self._ledger.forget_ended(self._retention, _PAGE)
        if gone:
            FORGOTTEN.inc(gone)
            log.info("pods_forgotten", pods=gone)
        return _BREATH_S if gone == _PAGE else _INTERVAL_S

    async def _tell(self) -> None:
        alive = (await self._ledger.census()).pods
        unwatched = [pod for pod in alive if pod.provider not in self._configured]
        UNWATCHED.clear()
        for provider, count in Tally(pod.provider for pod in unwatched).items():
            UNWATCHED.labels(provider).set(count)
        for pod in unwatched:
            if pod.pod_id not in self._told:
                log.warning(
                    "pod_unwatched",
                    pod_id=str(pod.pod_id),
                    name=pod.name,
                    provider=pod.provider,
                    provider_pod_id=pod.provider_pod_id,
                    state=pod.state,
                )
        self._told = frozenset(pod.pod_id for pod in unwatched)
