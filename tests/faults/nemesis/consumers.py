"""The load of ConsumeResults: producers that submit for an app of its own, and two consumers of one of its groups.

What consumers acknowledge is released, so the readers of `clients` have another app. A consumer sits down, takes some
deliveries, acknowledges most of them, and leaves with the rest in its hands; then it comes again. Once `drain` has
begun, everything that comes is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Iterator

from podium_client import AsyncClient, JobDelivery, PodiumError, ResultDelivery
from podium_client.consuming import Delivery
from tests.faults.nemesis.clients import PATIENCE, Client, words
from tests.faults.nemesis.cluster import Cluster
from tests.faults.nemesis.consumption import Acknowledged, Consumption, Drained, Ended, Got, Opened
from tests.faults.nemesis.history import Piece

PRODUCERS = 2
CONSUMERS = 2
APP = "consumed"
TOKEN = "test-token-of-consumed"
GROUP = "table"
_LONGEST_SITTING_S = 8.0
_LAST_SITTING_S = 2.0


class Producer(Client):
    """Submits, and sometimes cancels; others get the results."""

    kind = "producer"
    token = TOKEN

    def __init__(self, number: int, seed: int, cluster: Cluster, consumption: Consumption) -> None:
        super().__init__(number, seed, cluster.gateways, consumption.submissions)
        self._deeds = [(self._leave, 5), (self._cancel, 1)]


class Crowd:
    """The consumers of the group. `finish` ends their dice: from then on they acknowledge all."""

    def __init__(self, seed: int, gateways: str, consumption: Consumption) -> None:
        self._seed = seed
        self._gateways = gateways
        self._consumption = consumption
        self._sittings: Iterator[int] = itertools.count()
        self._finishing = asyncio.Event()

    def finish(self) -> None:
        """Nothing is left unacknowledged any more."""
        self._finishing.set()

    def drained(self) -> None:
        """The ledger was seen without anything to deliver."""
        self._consumption.events.append(Drained())

    async def consume(self, number: int) -> None:
        """One sitting after another until cancelled."""
        dice = random.Random(f"consumer {number} of {self._seed}")
        async with self._sdk() as sdk:
            while True:
                await self._sit(sdk, dice, dice.uniform(0.5, _LONGEST_SITTING_S))
                await asyncio.sleep(dice.uniform(0.0, 0.5))

    async def last_sitting(self) -> None:
        """Somebody who comes when all is over, to whom nothing must come."""
        async with self._sdk() as sdk:
            await self._sit(sdk, random.Random(0), _LAST_SITTING_S)

    def _sdk(self) -> AsyncClient:
        return AsyncClient(self._gateways, TOKEN, retry=PATIENCE)

    async def _sit(self, sdk: AsyncClient, dice: random.Random, seconds: float) -> None:
        """Takes deliveries until it is time to go, or until it has taken so many."""
        sitting = next(self._sittings)
        at_most, care = dice.randint(1, 120), dice.choice((0.0, 0.7, 0.95, 1.0))
        self._consumption.events.append(Opened(sitting))
        stream = sdk.consume(group=GROUP, window=dice.choice((1, 8, 64)))
        try:
            async with asyncio.timeout(seconds), contextlib.aclosing(stream) as deliveries:
                async for delivery in deliveries:
                    at_most -= 1
                    await self._take(sitting, delivery, acknowledged=dice.random() < care)
                    if at_most == 0 and not self._finishing.is_set():
                        return
        except TimeoutError:
            # Time to go. What was not acknowledged goes to whoever sits down next.
            pass
        except PodiumError as error:
            self._consumption.complaints.append(f"sitting {sitting}: {words(error)}")

    async def _take(self, sitting: int, delivery: Delivery, *, acknowledged: bool) -> None:
        if isinstance(delivery, ResultDelivery):
            event: Got | Ended = Got(sitting, delivery.job_id, Piece.of(delivery.chunk))
        else:
            assert isinstance(delivery, JobDelivery)
            event = Ended(sitting, delivery.job.job_id, delivery.job.state.value)
        self._consumption.events.append(event)
        if acknowledged or self._finishing.is_set():
            # Before it is done: whatever the service says after that may follow from it.
            self._consumption.events.append(Acknowledged(event))
            await delivery.ack()


@contextlib.asynccontextmanager
async def consuming(cluster: Cluster, seed: int, consumption: Consumption) -> AsyncIterator[Crowd]:
    """The app, and its consumers at work until the end of the block."""
    await _make_app(cluster)
    crowd = Crowd(seed, cluster.gateways, consumption)
    tasks = [asyncio.create_task(crowd.consume(n)) for n in range(CONSUMERS)]
    try:
        yield crowd
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        consumption.complaints += [f"{e!r}" for e in ends if isinstance(e, Exception)]


async def _make_app(cluster: Cluster) -> None:
    async with cluster.ledger() as connection:
        await connection.execute("INSERT INTO apps (app_id) VALUES ($1)", APP)
        await connection.execute(
            "INSERT INTO app_tokens (token_id, app_id, token_sha256) VALUES ($1, $2, $3)",
            uuid.uuid4(), APP, hashlib.sha256(TOKEN.encode()).digest(),
        )  # fmt: skip
