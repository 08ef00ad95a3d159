"""A consumer's lease: how much it asks for."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import consumer_lease, ports, wakes
from podium_gateway.domain import deliveries
from podium_runtime import clock

STEP_S = 10.0


class Ledger:
    """Has no end of deliveries."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.limits: list[int] = []
        self.nothing_wanted = asyncio.Event()

    async def advance_consumer(
        self, request: scheduler_pb2.AdvanceConsumerRequest, timeout_s: float
    ) -> scheduler_pb2.AdvanceConsumerResponse:
        self.limits.append(request.limit)
        if not request.limit:
            self.nothing_wanted.set()
        given = [scheduler_pb2.Delivery(delivery=next(self.numbers)) for _ in range(request.limit)]
        return scheduler_pb2.AdvanceConsumerResponse(deliveries=given)


def lease_of(ledger: Ledger, window: deliveries.Window) -> consumer_lease.ConsumerLease:
    opened = ports.OpenedConsumer("0123abcd-0000-4000-8000-000000000000", 7, 0.03)
    nobody = cast("Any", None)
    return consumer_lease.ConsumerLease(cast("Any", ledger), nobody, opened, window, wakes.Wakes(), clock.SystemClock())


async def until_nothing_is_wanted(ledger: Ledger, lease: consumer_lease.ConsumerLease) -> None:
    keeping = asyncio.create_task(lease.keep())
    try:
        await asyncio.wait_for(ledger.nothing_wanted.wait(), STEP_S)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_what_cannot_be_sent_soon_is_left_to_others() -> None:
    ledger = Ledger()
    lease = lease_of(ledger, deliveries.Window(1_000, 1_000))
    await until_nothing_is_wanted(ledger, lease)
    assert len(lease.queue) == consumer_lease.MAX_AHEAD


async def test_a_window_that_is_full_by_its_bytes_asks_for_nothing() -> None:
    ledger, window = Ledger(), deliveries.Window(1_000, 1_000)
    window.sent(99, 0, 1_000, last=True)
    lease = lease_of(ledger, window)
    await until_nothing_is_wanted(ledger, lease)
    assert not lease.queue


async def test_a_window_that_is_full_of_the_chunks_of_one_batch_asks_for_nothing() -> None:
    ledger, window = Ledger(), deliveries.Window(3, 1_000)
    for chunk in range(3):
        window.sent(99, chunk, 10, last=chunk == 2)
    lease = lease_of(ledger, window)
    await until_nothing_is_wanted(ledger, lease)
    assert not lease.queue
