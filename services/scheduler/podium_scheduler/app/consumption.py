"""Use cases of ConsumeResults: what the gateways ask for on behalf of consumers.

The ledger decides who holds a delivery; the gateway reads the results from the buffer itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prometheus_client import Counter

from podium_runtime import errors, ids
from podium_scheduler.app import delivery_news, ports, records

LEASED = Counter("podium_deliveries_leased_total", "Deliveries leased to consumers, again after a loss included.")
ACKNOWLEDGED = Counter(
    "podium_deliveries_acknowledged_total", "Acknowledgements of deliveries that gateways passed on."
)


class Consumption:
    """Opens, advances and closes consumers."""

    def __init__(self, ledger: ports.ConsumerLedger, news: delivery_news.DeliveryNews, make: ids.Ids) -> None:
        self._ledger = ledger
        self._news = news
        self._ids = make

    @property
    def lease_ttl(self) -> timedelta:
        """How long a consumer lives after it was last named."""
        return self._ledger.lease_ttl

    async def open(self, app_id: str, group: str, workload: str) -> records.Consumer:
        """Raises errors.FailedPrecondition."""
        return await self._ledger.open(self._ids.uuid4(), app_id, group, workload)

    async def advance(
        self,
        consumer_id: UUID,
        acknowledged: Sequence[int],
        returned: Sequence[int],
        held: Sequence[int],
        limit: int,
    ) -> records.Advance:
        """Settles, renews, leases; while the group is new, one step of filling it instead. Raises errors.NotFound."""
        await self._acknowledge(consumer_id, acknowledged)
        advance = await self._ledger.advance(consumer_id, returned, held, limit)
        if advance is None:
            raise errors.NotFound("this consumer's lease has ended", reason="CONSUMER_LOST")
        if not advance.filled:
            await self._ledger.fill(advance.group_id)
        LEASED.inc(len(advance.deliveries))
        return advance

    async def close(self, consumer_id: UUID, acknowledged: Sequence[int]) -> None:
        """Settles, and gives the rest to others."""
        await self._acknowledge(consumer_id, acknowledged)
        self._news.note(await self._ledger.close(consumer_id), ())

    async def _acknowledge(self, consumer_id: UUID, delivery_ids: Sequence[int]) -> None:
        if delivery_ids:
            released = await self._ledger.acknowledge(consumer_id, delivery_ids)
            ACKNOWLEDGED.inc(len(delivery_ids))
            self._news.note(set(), released)
