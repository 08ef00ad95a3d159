"""Ends consumers whose lease has run out, fills new groups, retires those that nobody uses. On the leader only.

A gateway that dies cannot give its consumers' deliveries back; the expiry of their leases does. A group that nobody has
opened for the retention is retired, so that it does not hold results back for ever; bounded steps.

While a group is filled nothing of its app is released. Its consumers fill it, since they wait for it; but they may be
gone before the end, and then nobody else would.
"""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import Gauge

from podium_runtime import logs
from podium_scheduler.app import delivery_news, loops, ports

log = logs.get_logger(__name__)

WAITING = Gauge("podium_deliveries", "Deliveries that consumer groups have yet to acknowledge.")
CONSUMERS = Gauge("podium_consumers", "Consumers that hold a lease.")

_INTERVAL_S = 10.0
"""The lookout wakes it for consumers that have expired and groups to fill; nobody waits for a group to be retired."""
_PAGE = 500
_FILLED_AT_ONCE = 16


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
        if removed == _PAGE or await self._fill():
            return 0.0
        await self._count()
        return _INTERVAL_S

    async def _fill(self) -> bool:
        """One step of each of some groups; True when there is more to do."""
        groups = await self._ledger.unfilled(_FILLED_AT_ONCE)
        filled = {group for group in groups if await self._ledger.fill(group)}
        self._news.note(filled, ())
        return bool(groups)

    async def _count(self) -> None:
        waiting, consumers = await self._ledger.counts()
        WAITING.set(waiting)
        CONSUMERS.set(consumers)
