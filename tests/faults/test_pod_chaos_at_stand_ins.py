"""A thousand pods that lived at each stand-in, which misbehaves at random; the autoscaler's and the keeper's own code.

Bursts of work have pods rented up to the budgets of the hour and of the day; pods never boot, die, vanish, lose their
GPU and are listed late; calls fail, hang, are throttled and cut, before their effect and after it; lists are stale; and
the scheduler is killed now and then at any call that it makes. Whether all went well is told by the stand-in's own
record of when each pod lived, not by the ledger. Time is virtual, so that hangs cost nothing. PODIUM_TEST_SEED plays
another game, PODIUM_TEST_LIVES a longer or shorter one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog

from podium_runtime import ids
from podium_scheduler.app import autoscaler, fleet_facts, job_costs, pod_keeper, pod_readiness, providers, wakers
from podium_scheduler.domain import costs, pod_watch, pods
from podium_scheduler.domain.autoscaling import policy
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import dying, pod_fleet, provider_rigs, virtual_time
from tests.support.clouds import runpod as runpod_cloud
from tests.support.clouds import stand_in

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("PODIUM_TEST_SEED", "5"))
LIVES = int(os.environ.get("PODIUM_TEST_LIVES", "1000"))
STAND_INS = {**provider_rigs.CLOUDS, **provider_rigs.CLUSTERS}
ODDS = 0.02
"""Of each of the fifteen things that can go wrong with a create call, and of the others' six or seven."""
ROUND_S = 20.0
WATCH_S = 5.0
"""Between two lists: a bill errs by the time from a pod's end to the list that shows it."""
QUIET_S = 120.0
"""Between rounds while there is no pod."""
CALL_S = 30.0
DAWN = datetime(2026, 1, 1, 15, tzinfo=UTC)
"""The day's budget begins anew after some hours, and again a day later."""
PODS = min(100, LIVES // 10)
"""At once, by the hour's budget."""
POD_HOURS = 0.4 * LIVES
"""In a day, by the day's; a pod that does well lives for the better part of an hour."""
LONGEST = timedelta(days=10)
PREFIX = provider_rigs.CLUSTER.rstrip("-")
PATIENCE = pod_watch.Patience(boot=timedelta(minutes=10), canary=timedelta(minutes=4))
RULES = pod_keeper.Rules(PATIENCE, interval_s=WATCH_S)


class Game:
    """A stand-in in a bad mood, work that comes in bursts, and mortal leaders."""

    def __init__(self, rig: provider_rigs.Rig, price: float) -> None:
        assert isinstance(rig.controls, provider_rigs.CloudControls)
        self.cloud = rig.controls.cloud
        self.time = rig.controls.time
        self.provider = rig.provider
        self.dice = random.Random(SEED)
        self.ledger = PodLedgerModel(self.time)
        self.fleet = pod_fleet.Fleet(self.cloud, self.ledger, self.time)
        self.ids = ids.SequentialIds()
        self.created: Counter[str] = Counter()
        self.deaths = 0
        self.foreign = 0
        """Pods of somebody else."""
        self.idle_until = self.time.now()
        # The termination lag is the shipped one: pods must be gone within it, or the dollars of a day would not hold.
        self.rules = policy.Policy(
            limits=policy.Limits(max_pods=2 * PODS, usd_per_hour=PODS * price, usd_per_day=POD_HOURS * price),
            idle_s=60.0,
            drain_grace_s=120.0,
            round_s=2 * ROUND_S,
            assumed_cold_start_s=120.0,
        )

    @property
    def ours(self) -> list[stand_in.Pod]:
        """Every pod that the scheduler ever had made."""
        return [pod for pod in self.cloud.pods.values() if pod.name.startswith(provider_rigs.CLUSTER)]

    @property
    def played(self) -> bool:
        """All lives are lived: no more work comes."""
        return len(self.cloud.pods) - self.foreign >= LIVES

    @property
    def over(self) -> bool:
        """And nothing is left of them."""
        return self.played and not self.ledger.open

    async def play(self) -> None:
        """Until all lives are lived."""
        async with asyncio.timeout(LONGEST.total_seconds()):
            world = asyncio.create_task(self.turn())
            try:
                while not self.over:
                    fate = dying.Fate(kill_at=self.dice.randrange(20, 3000), at_lines=True)
                    await dying.until_death(fate, self.lead(fate))
                    self.deaths += fate.dead
            finally:
                world.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await world

    async def turn(self) -> None:
        """The world moves on."""
        self.intrude()
        while True:
            await self.fleet.tick()
            now = self.time.now()
            if self.played:
                self.fleet.bursts.clear()
            elif not self.fleet.bursts and now >= self.idle_until:
                items = self.dice.randrange(5, 2 * PODS) * 3000 * pod_fleet.ITEMS_PER_S
                window = timedelta(hours=self.dice.choice([1.5, 2.0]))
                self.fleet.bursts.append(pod_fleet.Burst(items, now, now + window))
                self.idle_until = now + timedelta(minutes=self.dice.randrange(20, 60))
            if self.dice.random() < 0.001:
                self.intrude()
            await self.rest(ROUND_S)

    def intrude(self) -> None:
        """Somebody else has a pod on the same account."""
        self.cloud.add_foreign(f"somebody-elses-{len(self.cloud.pods)}")
        self.foreign += 1

    async def rest(self, round_s: float) -> None:
        """A round's time, and more when there is nothing to watch."""
        quiet = not self.ledger.open and not self.played
        await self.time.sleep(max(round_s, QUIET_S if quiet else 0.0))

    async def lead(self, fate: dying.Fate) -> None:
        """One leader's loops."""
        mortal: Any = dying.Line(self.fleet, fate)
        ledger: Any = dying.Line(self.ledger, fate)
        provider: Any = dying.Line(Counted(self.provider, self.created), fate)
        known, spent = pod_fleet.KNOWN, job_costs.JobCosts(mortal)
        facts = fleet_facts.FleetFacts(ledger, mortal, mortal, mortal, mortal, known, None, spent)
        on_offer = autoscaler.OfferWatch([provider], self.time)
        keeper = pod_keeper.PodKeeper(ledger, provider, self.fleet.order, self.ids, self.time, RULES)
        wake = wakers.Wakers(mortal, mortal)
        brain = autoscaler.Autoscaler(
            ledger, mortal, facts, on_offer, mortal, self.rules, PREFIX, self.ids, self.time, wake
        )  # fmt: skip
        readiness = pod_readiness.PodReadiness(ledger, mortal, known)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.drive(keeper.run_once, WATCH_S))
            for loop in (brain, readiness, on_offer):
                group.create_task(self.drive(loop.run_once, ROUND_S))

    async def drive(self, run_once: Callable[[], Awaitable[float]], least_s: float) -> None:
        while not self.over:
            await self.rest(max(await run_once(), least_s))


class Counted:
    """A provider, and how often it was asked to create each name."""

    def __init__(self, provider: providers.Provider, created: Counter[str]) -> None:
        self._provider = provider
        self._created = created
        self.name = provider.name
        self.list_lag_s = provider.list_lag_s
        self.offers = provider.offers
        self.list = provider.list
        self.destroy = provider.destroy

    async def create(self, order: providers.Order) -> providers.Listed:
        self._created[order.name] += 1
        return await self._provider.create(order)


# --- the stand-in's own record ----------------------------------------------------------------------------------------

Life = tuple[datetime, datetime, float]
"""From when to when a pod lived, and USD per hour."""


def most_usd_per_hour(lives: Iterable[Life]) -> float:
    """The most that all together cost at any moment."""
    steps = sorted([(begin, 1, price) for begin, _, price in lives] + [(end, 0, -price) for _, end, price in lives])
    most = level = 0.0
    for _, _, change in steps:
        level += change
        most = max(most, level)
    return most


def usd_of_days(lives: Iterable[Life]) -> dict[datetime, float]:
    """What they cost on each day of UTC."""
    days: dict[datetime, float] = {}
    for begin, end, price in lives:
        day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        while day < end:
            next_day = day + timedelta(days=1)
            hours = (min(end, next_day) - max(begin, day)) / timedelta(hours=1)
            days[day] = days.get(day, 0.0) + hours * price
            day = next_day
    return days


async def play(kind: str, folder: Path) -> None:
    """One game, and what is to be found after it."""
    plan = stand_in.Seeded(SEED, stand_in.rough(ODDS))
    time = virtual_time.LoopClock(DAWN)
    async with provider_rigs.open_cloud(STAND_INS[kind], folder, CALL_S, plan, time) as rig:
        assert isinstance(rig.controls, provider_rigs.CloudControls)
        if isinstance(rig.controls.cloud, runpod_cloud.RunPod):
            rig.controls.cloud.page_size = 50
        game = Game(rig, await cheapest(rig.provider))
        await game.play()
        await check(game)


async def cheapest(provider: providers.Provider) -> float:
    """USD per hour."""
    while True:
        with contextlib.suppress(providers.ProviderError):
            return min(one.price_usd_per_hour for one in await provider.offers())


async def check(game: Game) -> None:
    """Nothing is left, nothing was made twice, no budget was broken, and the bill is theirs."""
    now, rows = game.time.now(), game.ledger.rows.values()
    reasons = Counter(pod.reason for pod in rows)
    lives = [(pod.create_time, pod.end(now) or now, pod.price_usd_per_hour) for pod in game.ours]
    limits = game.rules.limits
    assert limits.usd_per_hour is not None and limits.usd_per_day is not None
    peak, days = most_usd_per_hour(lives), usd_of_days(lives)
    most = max(days.values())
    spans = [span for of_pod in game.ledger.prices.values() for span in of_pod]
    ours = costs.total(costs.bills(spans, DAWN, now).values()).micro_usd
    names = {pod.name for pod in game.ours}
    theirs = sum((charge.usd for charge in game.cloud.bill() if charge.name in names), Decimal()) * 1_000_000
    print(
        f"{len(game.ours)} lives, {game.deaths} deaths, ${peak:.2f}/h of ${limits.usd_per_hour:.2f}/h, ${most:.2f} of "
        f"${limits.usd_per_day:.2f} a day, bills differ by {float(abs(ours - theirs) / theirs):.3%}, {now - DAWN}",
        dict(reasons),
    )
    alive = {pod.name for pod in game.cloud.existing()}
    assert not [name for name in alive if name.startswith(provider_rigs.CLUSTER)], "no orphans"
    foreign = {pod.name for pod in game.cloud.pods.values()} - {pod.name for pod in game.ours}
    assert foreign and foreign <= alive, "somebody else's are left alone"
    assert set(game.created.values()) == {1}, "no name is called for twice"
    assert max(Counter(pod.name for pod in game.ours).values()) == 1, "no pod is made twice"
    assert {pod.state for pod in rows} <= pods.FINAL
    assert game.deaths > LIVES / 100
    assert reasons.keys() >= {pods.Reason.BOOT_TIMEOUT, pods.Reason.VANISHED, pods.Reason.PROVIDER_ERROR}
    assert reasons[pods.Reason.IDLE] + reasons[pods.Reason.OVER_BUDGET] > len(rows) / 10, "most had lives worth living"
    assert limits.usd_per_hour * 0.8 < peak <= limits.usd_per_hour + 1e-9, f"${peak}/h of ${limits.usd_per_hour}/h"
    assert limits.usd_per_day * 0.8 < most <= limits.usd_per_day, f"${most} a day of ${limits.usd_per_day}"
    assert abs(ours - theirs) <= theirs / 100, f"{ours} and {theirs} micro-USD"


@pytest.mark.parametrize("kind", sorted(STAND_INS))
def test_a_thousand_lives_leave_nothing_behind_and_keep_the_budgets(kind: str, tmp_path: Path) -> None:
    # Nobody reads a hundred thousand lines.
    with structlog.testing.capture_logs():
        virtual_time.run(play(kind, tmp_path))
