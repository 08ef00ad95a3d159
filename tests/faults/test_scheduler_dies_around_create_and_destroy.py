"""The scheduler is killed at every await around create and destroy, for every answer that a provider may give.

After each kill a new leader has the same ledger and the same provider. Within two rounds of the watcher every pod that
the provider has is known to the ledger, and every pod that the ledger counts on exists; no name was ever called for
twice; and what was to be destroyed is. Where the list is late or lies for a while, the two rounds begin when it has
come to the truth, as nobody could know before.

Against the imaginary provider the steps are those of the event loop, all of them. Against the stand-ins of the clouds,
which answer over sockets, they are those before and after every call to the ledger and to the provider; their time is
virtual, so that calls which hang until the patience with them is over cost nothing. Pods on this machine are real
processes; there the steps are also those between a process' spawn and its first word. tests/support/local_machine.py.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from podium_runtime import clock, ids
from podium_scheduler.app import pod_keeper, providers, records
from podium_scheduler.domain import pod_watch, pods
from podium_scheduler.domain.pods import Move, Reason, State
from podium_scheduler.simulation.pod_ledger import PodLedgerModel
from tests.support import dying, local_machine, provider_rigs, virtual_time
from tests.support.clouds.imaginary import Create, Destroy, Imaginary
from tests.support.clouds.stand_in import WELL, Misbehaviour, Operation

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROUND_S = 5.0
PATIENCE = pod_watch.Patience(call=timedelta(seconds=20), absence=timedelta(seconds=4))
RULES = pod_keeper.Rules(PATIENCE, interval_s=ROUND_S)
RELIED_ON = (State.STARTING, State.READY, State.DRAINING)


async def _nothing() -> None:
    """Nobody has to be waited for."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """A provider, and what its own books say."""

    provider: providers.Provider
    time: clock.FakeClock
    alive: Callable[[], Iterable[str]]
    """Names of the pods that exist."""
    ever: Callable[[], int]
    """Pods that it ever made."""
    listed_at_once: bool = True
    settle: Callable[[], Awaitable[None]] = _nothing
    """Waits until what was begun outside has come to its end; what takes no time but the clock's needs none."""
    reopen: Callable[[dying.Fate], providers.Provider] | None = None
    """The provider as a new process with this fate has it; None: it remembers nothing."""


class Recorded:
    """A provider, and the names that it was asked to create pods of."""

    def __init__(self, provider: providers.Provider, created: Counter[str]) -> None:
        self._provider = provider
        self.created = created

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def create(self, order: providers.Order) -> providers.Listed:
        self.created[order.name] += 1
        return await self._provider.create(order)


class Case:
    """What outlives the scheduler: a provider, a ledger, the time; and what is checked of them."""

    def __init__(self, cloud: Cloud, offer: providers.Offer, pod_count: int) -> None:
        self.cloud = cloud
        self.clock = cloud.time
        self.created: Counter[str] = Counter()
        self.ledger = PodLedgerModel(self.clock)
        self.ids = ids.SequentialIds()
        self.offer = offer
        self.pod_count = pod_count

    def leader(self, fate: dying.Fate) -> pod_keeper.PodKeeper:
        """A keeper in a process with this fate."""
        mine = self.cloud.reopen(fate) if self.cloud.reopen else self.cloud.provider
        ledger, provider = dying.Line(self.ledger, fate), dying.Line(Recorded(mine, self.created), fate)
        return pod_keeper.PodKeeper(ledger, provider, self.order, self.ids, self.clock, RULES)

    def order(self, pod: pods.Pod, token: str) -> providers.Order:
        return providers.Order(pod.pod_id, pod.name, self.offer, "podium/worker:1", (), {"PODIUM_JOIN_TOKEN": token})

    async def play(self, fate: dying.Fate) -> None:
        """One leader until it is killed, then the next; pods that are made, and destroyed."""
        await self.wanted()
        await dying.until_death(fate, self.first_leader(self.leader(fate)))
        await self.cloud.settle()
        next_leader = self.leader(dying.Fate())
        await self.rounds(next_leader, 2)
        if self.cloud.listed_at_once:
            self.agrees()
        self.the_list_is_true()
        await self.rounds(next_leader, 2)
        self.agrees()
        await self.doomed()
        await self.rounds(next_leader, 2)
        self.the_list_is_true()
        await self.rounds(next_leader, 2)
        self.agrees()
        await self.rounds(next_leader, 6)
        self.is_over()

    async def first_leader(self, keeper: pod_keeper.PodKeeper) -> None:
        """Makes the pods, sees them, destroys them, and sees that they are gone."""
        await self.rounds(keeper, 3)
        await self.doomed()
        await self.rounds(keeper, 3)
        self.the_list_is_true()
        await self.rounds(keeper, 2)

    async def rounds(self, keeper: pod_keeper.PodKeeper, number: int) -> None:
        """Rounds of the watcher."""
        for _ in range(number):
            rest = await keeper.run_once()
            await self.cloud.settle()
            # What it was told to leave alone for long is not a round.
            self.clock.advance(max(rest, ROUND_S))

    def the_list_is_true(self) -> None:
        """As much time passes as a call may take, and then its pod to be listed."""
        self.clock.advance(PATIENCE.call.total_seconds() + self.cloud.provider.list_lag_s + 1.0)

    async def wanted(self) -> None:
        """The autoscaler has spoken."""
        offer, made = self.offer, [UUID(int=n) for n in range(1, self.pod_count + 1)]
        names = [f"{provider_rigs.CLUSTER}{pod_id.hex}" for pod_id in made]
        kind = (self.cloud.provider.name, offer.gpu_type, offer.gpu_count, Decimal(1))
        await self.ledger.intend([records.NewPod(i, n, *kind) for i, n in zip(made, names, strict=True)])

    async def doomed(self) -> None:
        """It has spoken again: none of them is wanted any more."""
        for pod in (await self.ledger.census()).pods:
            after = State.FAILED if pod.state is State.INTENDED else State.DESTROYING
            if pods.may_move(pod.state, after):
                await self.ledger.move([Move(pod.pod_id, pod.state, after, Reason.NOT_WANTED)])

    def agrees(self) -> None:
        """The provider has what the ledger knows, and the ledger counts on what the provider has."""
        rows, alive = self.ledger.rows.values(), Counter(self.cloud.alive())
        assert max(self.created.values(), default=0) <= 1, "no name is called for twice"
        assert max(alive.values(), default=0) <= 1, "no pod is made twice"
        assert set(alive) <= {p.name for p in rows if p.end_time is None and p.provider_pod_id}, "no orphans"
        assert {p.name for p in rows if p.state in RELIED_ON} <= set(alive), "no ghosts"
        assert len(rows) == self.pod_count, "nobody had to be taken in: each was found by its name"

    def is_over(self) -> None:
        """Nothing is left, and nothing is billed any more."""
        self.agrees()
        rows = self.ledger.rows.values()
        assert list(self.cloud.alive()) == []
        assert {pod.state for pod in rows} <= pods.FINAL
        spans = [span for of_pod in self.ledger.prices.values() for span in of_pod]
        assert all(span.end is not None for span in spans)
        assert {s.pod_id for s in spans} == {p.pod_id for p in rows if p.provider_pod_id}
        assert sum(p.provider_pod_id != "" for p in rows) == self.cloud.ever()


def fates(unharmed: dying.Fate) -> Iterator[dying.Fate]:
    """One that counts the steps, then one for each of them."""
    yield unharmed
    assert not unharmed.dead
    for kill_at in range(1, unharmed.steps + 1):
        fate = dying.Fate(kill_at, at_lines=unharmed.at_lines)
        yield fate
        assert fate.dead, "the same steps in the same order"


@contextlib.contextmanager
def told(fate: dying.Fate) -> Iterator[None]:
    """A failure says where it died."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"killed before step {fate.kill_at}: {error}") from error


# --- the imaginary provider, at every step of the loop ----------------------------------------------------

ANSWERS = [(one, Destroy.DONE) for one in Create] + [(Create.MADE, one) for one in Destroy if one is not Destroy.DONE]
_LATE = (Create.MADE_LISTED_LATE, Create.AMBIGUOUS_MADE_LISTED_LATE)


@pytest.mark.parametrize(("create", "destroy"), ANSWERS, ids=lambda answer: answer.replace(",", ""))
def test_wherever_it_dies_the_next_leader_sets_it_right(create: Create, destroy: Destroy) -> None:
    unharmed = dying.Fate()
    for fate in fates(unharmed):
        time = clock.FakeClock()
        imaginary = Imaginary(time, list_lag_s=30.0, creates=deque([create]), destroys=deque([destroy]))
        cloud = Cloud(
            imaginary,
            time,
            lambda imaginary=imaginary: [machine.name for machine in imaginary.alive],  # type: ignore[misc]
            lambda imaginary=imaginary: len(imaginary.machines),  # type: ignore[misc]
            create not in _LATE,
        )
        # Three, so that some calls are made at the same time, and their answers differ.
        with told(fate):
            dying.run(Case(cloud, providers.Offer("imaginary", "L4", 1, 1.0), 3).play(fate))
    assert unharmed.steps > 50


# --- the stand-ins, at every call -------------------------------------------------------------------------

LATE_S = 20.0
CREATES = {
    "made": WELL,
    "500 not made": Misbehaviour(fails_before=True),
    "500 made": Misbehaviour(fails_after_creating=True),
    "cut made": Misbehaviour(breaks_after_creating=True),
    "500 made listed late": Misbehaviour(fails_after_creating=True, listed_late_s=LATE_S),
    "no capacity": Misbehaviour(no_capacity=True),
    "refused": Misbehaviour(refused=True),
    "unauthorized": Misbehaviour(unauthorized=True),
    "throttled": Misbehaviour(throttled=30.0),
    "unreadable answer made": Misbehaviour(garbles_after_creating=True),
    "hangs not made": Misbehaviour(times_out_before=True),
    "hangs made": Misbehaviour(times_out_after_creating=True),
    "hangs made listed late": Misbehaviour(times_out_after_creating=True, listed_late_s=LATE_S),
}
DESTROYS = {
    "500 not done": Misbehaviour(fails_before=True),
    "500 done": Misbehaviour(fails_after_creating=True),
    "cut done": Misbehaviour(breaks_after_creating=True),
    "unauthorized": Misbehaviour(unauthorized=True),
    "throttled": Misbehaviour(throttled=30.0),
    "hangs not done": Misbehaviour(times_out_before=True),
    "hangs done": Misbehaviour(times_out_after_creating=True),
}
WRONG = {
    **{f"create: {name}": (Operation.CREATE, wrong) for name, wrong in CREATES.items()},
    **{f"destroy: {name}": (Operation.DESTROY, wrong) for name, wrong in DESTROYS.items()},
}
STAND_INS = {**provider_rigs.CLOUDS, **provider_rigs.CLUSTERS}


@contextlib.asynccontextmanager
async def stand_in(kind: str, folder: Path, operation: Operation, wrong: Misbehaviour) -> AsyncIterator[Cloud]:
    """A cloud on loopback that does one thing wrong."""
    async with provider_rigs.open_cloud(STAND_INS[kind], folder, 5.0) as rig:
        controls = rig.controls
        assert isinstance(controls, provider_rigs.CloudControls)
        controls.misbehave(operation, wrong)
        yield Cloud(
            rig.provider, controls.time, controls.existing, lambda: len(controls.cloud.pods), not wrong.listed_late_s
        )


async def at_every_call(kind: str, wrong: str, folder: Path) -> None:
    """One game for each step of an unharmed one."""
    unharmed = dying.Fate(at_lines=True)
    for fate in fates(unharmed):
        async with stand_in(kind, folder, *WRONG[wrong]) as cloud:
            offer = next(iter(await cloud.provider.offers()))
            with told(fate):
                await Case(cloud, offer, 1).play(fate)
    assert unharmed.steps > 30


@pytest.mark.parametrize("wrong", sorted(WRONG))
@pytest.mark.parametrize("kind", sorted(STAND_INS))
def test_wherever_it_dies_the_next_leader_sets_it_right_at(kind: str, wrong: str, tmp_path: Path) -> None:
    virtual_time.run(at_every_call(kind, wrong, tmp_path))


# --- processes of this machine, at every call and between a spawn and its first word ------------------------


@pytest.mark.parametrize("wrong", ["made", "no capacity", "refused"])
async def test_wherever_it_dies_no_process_is_left_or_started_twice(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unharmed = dying.Fate(at_lines=True)
    for number, fate in enumerate(fates(unharmed)):
        async with local_machine.opened(tmp_path / str(number), CREATES[wrong], monkeypatch) as machine:
            time = clock.FakeClock()
            first = machine.reopen(dying.Fate(), time)
            offer = next(iter(await first.offers()))
            cloud = Cloud(
                first,
                time,
                machine.alive,
                lambda machine=machine: len(machine.ever),  # type: ignore[misc]
                settle=machine.settle,
                reopen=lambda fate, machine=machine, time=time: machine.reopen(fate, time),  # type: ignore[misc]
            )
            with told(fate):
                await Case(cloud, offer, 1).play(fate)
    assert unharmed.steps > 30
