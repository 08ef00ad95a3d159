"""A thousand pod lives with every misbehaviour at random, and a scheduler that is killed now and then.

Nothing may be left at the provider, no name may be called for twice, and the ledger's bill is the provider's within
one percent: it errs by the time from a pod's end to the list that shows it, and these pods live for 40 minutes.
PODIUM_TEST_SEED plays another game.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest

from podium_runtime import clock, ids
from podium_scheduler.app import pod_keeper, providers, records
from podium_scheduler.domain import costs, pod_watch, pods
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import dying
from tests.support.clouds.imaginary import Create, Destroy, Imaginary, Machine

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SEED = int(os.environ.get("PODIUM_TEST_SEED", "5"))
LIVES = 1000
AT_ONCE = 100
ROUND_S = 5.0
PATIENCE = pod_watch.Patience(call=timedelta(seconds=20), absence=timedelta(seconds=4), boot=timedelta(hours=4))
RULES = pod_keeper.Rules(PATIENCE, interval_s=ROUND_S)
WELL = 0.7
"""How often a provider does what it is asked for."""


class Game:
    """A provider in a bad mood, an autoscaler that changes its mind, and mortal leaders."""

    def __init__(self) -> None:
        self.dice = random.Random(SEED)
        self.clock = clock.FakeClock()
        self.start = self.clock.now()
        self.cloud = Imaginary(self.clock, list_lag_s=30.0)
        self.ledger = PodLedgerModel(self.clock)
        self.ids = ids.SequentialIds()
        self.lives = 0
        self.deaths = 0

    async def play(self) -> None:
        """Until all lives are lived."""
        while self.lives < LIVES or (await self.ledger.census()).pods:
            fate = dying.Fate(kill_at=self.dice.randrange(20, 4000))
            await dying.until_death(fate, self.lead(fate))
            self.deaths += fate.dead

    async def lead(self, fate: dying.Fate) -> None:
        """One leader's rounds; between them the world moves on."""
        ledger, cloud = dying.Line(self.ledger, fate), dying.Line(self.cloud, fate)
        keeper = pod_keeper.PodKeeper(ledger, cloud, order, self.ids, self.clock, RULES)
        while self.lives < LIVES or (await self.ledger.census()).pods:
            self.misbehave()
            await self.decide()
            self.clock.advance(max(await keeper.run_once(), ROUND_S))

    def misbehave(self) -> None:
        """The next answers, lists, and accidents."""
        dice, cloud = self.dice, self.cloud
        while len(cloud.creates) < AT_ONCE:
            cloud.creates.append(Create.MADE if dice.random() < WELL else dice.choice(list(Create)))
        while len(cloud.destroys) < AT_ONCE:
            cloud.destroys.append(Destroy.DONE if dice.random() < WELL else dice.choice(list(Destroy)))
        if dice.random() < 0.05:
            cloud.lists.append(providers.Ambiguous("internal error"))
        if cloud.alive and dice.random() < 0.05:
            self.harm(dice.choice(cloud.alive))
        if dice.random() < 0.005:
            cloud.make(f"test-foreign-{self.ids.uuid4()}")

    def harm(self, machine: Machine) -> None:
        """Something becomes of it that nobody asked for."""
        match self.dice.randrange(3):
            case 0:
                self.cloud.lose(machine)
            case 1:
                machine.status = providers.Status.ERROR
            case _:
                # Not listed for a round.
                machine.listed_from = self.clock.now() + timedelta(seconds=1)

    async def decide(self) -> None:
        """New intents, and ends of old ones."""
        alive = (await self.ledger.census()).pods
        new = min(AT_ONCE - len(alive), LIVES - self.lives, self.dice.randrange(1, 6))
        for _ in range(max(new, 0)):
            self.lives += 1
            pod_id = self.ids.uuid4()
            await self.ledger.intend(
                [records.NewPod(pod_id, pods.name_of("test", pod_id), "imaginary", "L4", 1, Decimal("1.5"))]
            )
        for pod in alive:
            after = State.FAILED if pod.state is State.INTENDED else State.DESTROYING
            if pods.may_move(pod.state, after) and self.dice.random() < 0.002:
                await self.ledger.move([Move(pod.pod_id, pod.state, after, Reason.NOT_WANTED)])


def order(pod: pods.Pod, token: str) -> providers.Order:
    offer = providers.Offer(pod.provider, pod.gpu_type, pod.gpu_count, float(pod.price_usd_per_hour))
    return providers.Order(pod.pod_id, pod.name, offer, "image", (), {"PODIUM_JOIN_TOKEN": token})


def test_a_thousand_lives_leave_nothing_behind() -> None:
    game = Game()
    dying.run(game.play())
    assert game.deaths > 10
    assert game.cloud.alive == []
    calls = Counter(one.name for one in game.cloud.orders)
    assert set(calls.values()) == {1}
    assert {pod.state for pod in game.ledger.rows.values()} == pods.FINAL
    now = game.clock.now()
    spans = [span for of_pod in game.ledger.prices.values() for span in of_pod]
    ours = costs.total(costs.bills(spans, game.start, now).values()).micro_usd
    theirs = game.cloud.bill_micro_usd(game.start, now)
    assert abs(ours - theirs) <= theirs / 100, f"{ours} and {theirs} micro-USD"
