"""Ends consumers whose lease has run out, and retires groups that nobody uses. Runs on the leader only.

A gateway that dies cannot give its consumers' deliveries back; the expiry of their leases does. A group that nobody has
opened for the retention is retired, so that it does not hold results back for ever; bounded steps.
"""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import Gauge

from podium_runtime import logs
from podium_scheduler.app import delivery_news, loops, ports

log = logs.get_logger(__name__)

WAITING = Gauge("podium_deliveries", "Deliveries that consumer groups have yet to acknowledge.")
CONSUMERS = Gauge("podium_consumers", "Consumers that hold a lease.")

_INTERVAL_S = 1.0
_PAGE = 500
_COUNT_EVERY = 10


def forget() -> None:
    """Takes the gauges back: another replica leads."""
    WAITING.set(0)
    CONSUMERS.set(0)


class ConsumerKeeper(loops.PatientLoop):
    """Keeps groups and consumers in order."""

    name = "consumer_keeper"

    def __init__(self, ledger: ports.ConsumerLedger, news: delivery_news.DeliveryNews, retention: timedelta) -> None:
        super().__init__()
        self._ledger = ledger
        self._news = news
        self._retention = retention
        self._rounds = 0

    async def round(self) -> float:
        """One bounded step of each kind."""
        expired = await self._ledger.expire(_PAGE)
        if expired:
            log.warning("consumers_expired", groups=len(expired))
            self._news.note(expired, ())
        for name in await self._ledger.retire(self._retention):
            log.info("consumer_group_retired", group=name)
        removed, released = await self._ledger.remove_retired(_PAGE)
        self._news.note(set(), released)
        await self._count()
        return 0.0 if removed == _PAGE else _INTERVAL_S

    async def _count(self) -> None:
        if self._rounds % _COUNT_EVERY == 0:
            waiting, consumers = await self._ledger.counts()
            WAITING.set(waiting)
            CONSUMERS.set(consumers)
        self._rounds += 1
