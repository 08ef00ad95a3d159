"""A consumer's lease at the ledger: settles what is acknowledged, renews, and asks for as much as the window takes.

Levels, not events: each call says all that the consumer holds, so an answer that was lost is made good by the next. A
call that fails is repeated, and nothing that it was to settle is forgotten; after a lease time without an answer, by
this process's clock, somebody else may hold the deliveries, and the stream ends with UNAVAILABLE. Wake-ups may be lost:
the ledger is also asked every POLL_S seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import callers, ports, wakes
from podium_gateway.domain import deliveries
from podium_runtime import clock, errors, logs

log = logs.get_logger(__name__)

POLL_S = 1.0
# Leased and not yet sent: what a consumer holds in reserve, its neighbours cannot have.
MAX_AHEAD = 64
_RETRY_S = 0.25
# Until the reconciler has noticed the loss, asking for the same batch again would only be a loop.
_LOST_PAUSE_S = 1.0
_ACKNOWLEDGED = "acknowledged"
_AWAY = (errors.Unavailable, errors.DeadlineExceeded, errors.ResourceExhausted)


class ConsumerLease:
    """Fills `queue` with deliveries to send, and sets `turn` whenever the sender should look again."""

    def __init__(
        self,
        ledger: ports.Consumers,
        caller: callers.Caller,
        opened: ports.OpenedConsumer,
        window: deliveries.Window,
        woken: wakes.Wakes,
        time: clock.Clock,
    ) -> None:
        self.queue: deque[scheduler_pb2.Delivery] = deque()
        self.turn = asyncio.Event()
        self._ledger = ledger
        self._caller = caller
        self._opened = opened
        self._window = window
        self._woken = woken
        self._clock = time
        self._lost: dict[int, float] = {}

    @property
    def tag(self) -> str:
        """8 hex digits that tell this consumer from others."""
        return self._opened.consumer_id[:8]

    def acknowledged(self) -> None:
        """The window has changed."""
        self._woken.notify(_ACKNOWLEDGED)
        self.turn.set()

    def give_back(self, delivery: scheduler_pb2.Delivery) -> None:
        """This delivery cannot be sent now."""
        self._lost[delivery.delivery] = self._clock.monotonic() + _LOST_PAUSE_S

    async def give_back_lost(self, delivery: scheduler_pb2.Delivery) -> None:
        """This delivery's results are not in the store: the scheduler is told, too."""
        self.give_back(delivery)
        # Whoever has the delivery next will find them missing as well.
        with suppress(*_AWAY, errors.NotFound):
            await self._ledger.report_missing_result(self._caller, delivery.job_id)

    async def keep(self) -> None:
        """Works until cancelled. Raises errors.Unavailable when the lease is lost."""
        heard_at = self._clock.monotonic()
        while True:
            self._woken.clear(_ACKNOWLEDGED, wakes.DELIVERIES)
            request = self._request()
            try:
                answer = await self._ledger.advance_consumer(request, self._opened.lease_ttl_s)
            except errors.NotFound as error:
                raise _lost() from error
            except _AWAY as error:
                if self._clock.monotonic() - heard_at > self._opened.lease_ttl_s:
                    raise _lost() from error
                await self._clock.sleep(_RETRY_S)
                continue
            heard_at = self._clock.monotonic()
            self._accept(request, answer)
            if not answer.filling:
                await self._rest(asked=request.limit, got=len(answer.deliveries))

    def _request(self) -> scheduler_pb2.AdvanceConsumerRequest:
        now = self._clock.monotonic()
        returned = {delivery for delivery, until in self._lost.items() if until <= now}
        held = self._held() - returned
        return scheduler_pb2.AdvanceConsumerRequest(
            consumer_id=self._opened.consumer_id,
            acknowledged=sorted(self._window.settled),
            returned=sorted(returned),
            held=sorted(held),
            limit=self._room(returned=len(returned)),
        )

    def _room(self, *, returned: int = 0) -> int:
        """Deliveries that can be sent soon: each is a chunk at least, and none is sent while the window is full."""
        ahead = len(self.queue) + len(self._lost) - returned
        return max(0, min(self._window.room, MAX_AHEAD) - ahead)

    def _held(self) -> set[int]:
        return {d.delivery for d in self.queue} | self._window.deliveries | set(self._lost)

    def _accept(
        self, request: scheduler_pb2.AdvanceConsumerRequest, answer: scheduler_pb2.AdvanceConsumerResponse
    ) -> None:
        self._window.settled.difference_update(request.acknowledged)
        for delivery in request.returned:
            del self._lost[delivery]
        # Settled since the request went out: the ledger did not know that yet.
        known = self._held() | self._window.settled
        self.queue.extend(d for d in answer.deliveries if d.delivery not in known)
        self.turn.set()

    async def _rest(self, *, asked: int, got: int) -> None:
        """Until there is something to tell or to ask."""
        if self._window.settled:
            return
        room = self._room() > 0
        if room and 0 < asked <= got:
            return
        kinds = (_ACKNOWLEDGED, wakes.DELIVERIES) if room else (_ACKNOWLEDGED,)
        await self._woken.wait(min(POLL_S, self._opened.lease_ttl_s / 3), *kinds)


def _lost() -> errors.Unavailable:
    return errors.Unavailable(
        "this consumer's lease has ended; open the stream again", reason="CONSUMER_LOST", retry_after_s=0.1
    )
