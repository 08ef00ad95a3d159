"""A provider whose machines are simulated: no capacity, answers that do not tell, lists that lag, pods that never come
up or die, and ends that take a while. What it was asked for stays done, whatever the caller was told.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Order, Status
from podium_scheduler.domain import offers
from podium_scheduler.simulation.agenda import EPOCH, Agenda
from podium_scheduler.simulation.books import Books
from podium_scheduler.simulation.market import Market

NAME = "cloud"
LIST_LAG_S = 10.0
"""A generous bound of how long the list lags: what the pod keeper is told."""


@dataclass(slots=True, eq=False)
class Machine:
    """A pod as it really is."""

    provider_pod_id: str
    order: Order
    offer: offers.Offer
    """At its price when it was made, which it keeps."""
    made_s: float
    listed_from_s: float
    lingers_s: float
    """So long after its end it is still listed."""
    ending: bool = False
    gone_s: float = math.inf
    listed_until_s: float = math.inf


class Cloud:
    """The provider. `on_up` and `on_down` are told when a machine's worker begins, and when it is cut off."""

    name = NAME
    list_lag_s = LIST_LAG_S

    def __init__(
        self,
        market: Market,
        agenda: Agenda,
        books: Books,
        seed: int,
        on_up: Callable[[Machine], Awaitable[None]],
        on_down: Callable[[Machine], None],
    ) -> None:
        self._market = market
        self._agenda = agenda
        self._books = books
        self._seed = seed
        self._on_up = on_up
        self._on_down = on_down
        self._calls = itertools.count(1)
        self._shown: dict[str, Machine] = {}
        self.alive: dict[str, Machine] = {}
        """What exists, and bills, by the provider's id."""
        self.made = 0
        self.failed = 0
        """Machines that never came up, or died."""

    async def offers(self) -> Sequence[offers.Offer]:
        """All of the market, at the prices of the moment."""
        return [stall.priced(self._agenda.now_s) for stall in self._market.stalls]

    async def create(self, order: Order) -> Listed:
        """Makes a machine, if there is one. Raises NoCapacity; Ambiguous, and then it was made or was not."""
        stall = self._market.by_key[order.offer.key]
        if not stall.has_capacity(self._agenda.now_s):
            raise providers.NoCapacity(f"no {order.offer.gpu_type} left")
        # Dice of its own, so that two rules which rent the same have the same luck.
        dice = random.Random(f"{self._seed} {next(self._calls)}")
        unclear = dice.random() < stall.unclear_answers
        if unclear and dice.random() < 0.5:
            raise providers.Ambiguous("internal error")
        made = self._make(order, dice)
        if unclear:
            raise providers.Ambiguous("internal error")
        return _listed(made)

    async def list(self) -> Sequence[Listed]:
        """What is to be seen now: not yet what has just been made, and still what has just gone."""
        return [_listed(machine) for machine in self._seen()]

    def listed(self) -> set[str]:
        """The same, as ids."""
        return {machine.provider_pod_id for machine in self._seen()}

    async def destroy(self, provider_pod_id: str) -> None:
        """Cuts the worker off at once; the machine is gone, and no longer billed, a while later."""
        machine = self.alive.get(provider_pod_id)
        if machine is not None and not machine.ending:
            machine.ending = True
            self._on_down(machine)
            self._agenda.after(self._market.termination_lag_s, lambda: self._vanish(machine))

    async def close(self) -> None:
        """Nothing to give back."""

    def _make(self, order: Order, dice: random.Random) -> Machine:
        now_s = self._agenda.now_s
        stall = self._market.by_key[order.offer.key]
        number = f"{NAME}-{self.made + 1}"
        early, late = (dice.uniform(0, self._market.list_lag_s) for _ in range(2))
        machine = Machine(number, order, stall.priced(now_s), now_s, now_s + early, late)
        self.alive[number] = self._shown[number] = machine
        self.made += 1
        self._books.begin(machine.offer.price_usd_per_hour)
        if dice.random() < stall.boot_failures:
            self.failed += 1
        else:
            self._agenda.after(stall.cold_start(dice), lambda: self._come_up(machine))
        if stall.mean_life_s is not None:
            self._agenda.after(dice.expovariate(1 / stall.mean_life_s), lambda: self._die(machine))
        return machine

    async def _come_up(self, machine: Machine) -> None:
        if machine.provider_pod_id in self.alive and not machine.ending:
            await self._on_up(machine)

    def _die(self, machine: Machine) -> None:
        if machine.provider_pod_id in self.alive and not machine.ending:
            self.failed += 1
            machine.ending = True
            self._on_down(machine)
            self._vanish(machine)

    def _vanish(self, machine: Machine) -> None:
        if self.alive.pop(machine.provider_pod_id, None) is not None:
            machine.gone_s = self._agenda.now_s
            machine.listed_until_s = machine.gone_s + machine.lingers_s
            self._books.end(machine.offer.price_usd_per_hour)

    def _seen(self) -> Iterator[Machine]:
        now_s = self._agenda.now_s
        for number, machine in list(self._shown.items()):
            if machine.listed_until_s <= now_s:
                del self._shown[number]
            elif machine.listed_from_s <= now_s:
                yield machine


def _listed(machine: Machine) -> Listed:
    return Listed(
        machine.provider_pod_id,
        machine.order.name,
        Status.RUNNING,
        machine.offer.price_usd_per_hour,
        machine.offer.gpu_type,
        machine.offer.gpu_count,
        EPOCH + timedelta(seconds=machine.made_s),
    )
