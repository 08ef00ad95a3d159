"""A provider that exists in memory only: a list, a bill, and misbehaviours on demand, all on one fake clock.

It is the other side of the wire: what it was asked for stays done, whatever becomes of the caller. Answers are set one
call ahead; without one it behaves.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from podium_runtime import clock
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Offer, Order, Status


class Create(StrEnum):
    """What becomes of a create call."""

    MADE = "made"
    MADE_LISTED_LATE = "made, listed late"
    NO_CAPACITY = "no capacity"
    REFUSED = "refused"
    UNAUTHORIZED = "unauthorized"
    OUT_OF_FUNDS = "out of funds"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    AMBIGUOUS_MADE = "500, made"
    AMBIGUOUS_MADE_LISTED_LATE = "500, made, listed late"
    AMBIGUOUS_NOT_MADE = "500, not made"
    AMBIGUOUS_MADE_LATER = "500, made 120 s later"
    """The request was on its way all the time."""
    HANGS_MADE = "hangs, made"
    HANGS_NOT_MADE = "hangs, not made"


class Destroy(StrEnum):
    """What becomes of a destroy call."""

    DONE = "done"
    DONE_LISTED_ON = "done, listed a while longer"
    UNHEARD = "said to be done, and not done"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    AMBIGUOUS_DONE = "500, done"
    AMBIGUOUS_NOT_DONE = "500, not done"
    HANGS_DONE = "hangs, done"
    HANGS_NOT_DONE = "hangs, not done"


_MADE = frozenset(one for one in Create if "made" in one and "not made" not in one)
_DONE = frozenset({Destroy.DONE, Destroy.DONE_LISTED_ON, Destroy.AMBIGUOUS_DONE, Destroy.HANGS_DONE})
_ERRORS: dict[str, Callable[[], providers.ProviderError]] = {
    "no capacity": lambda: providers.NoCapacity("none left"),
    "refused": lambda: providers.Refused("no such machine"),
    "unauthorized": lambda: providers.Unauthorized("bad key"),
    "out of funds": lambda: providers.OutOfFunds("top up"),
    "throttled": lambda: _throttled(),
    "unreachable": lambda: providers.Unreachable("connection refused"),
    "500": lambda: providers.Ambiguous("internal error"),
}


def _throttled() -> providers.ProviderError:
    error = providers.Throttled("too many requests")
    error.retry_after_s = 30.0
    return error


@dataclass(slots=True)
class Machine:
    """A pod as it really is."""

    provider_pod_id: str
    name: str
    price: Decimal
    made: datetime
    listed_from: datetime
    gone: datetime | None = None
    listed_until: datetime | None = None
    status: Status = Status.RUNNING
    detail: str = ""


@dataclass
class Imaginary:
    """The provider, and the cloud behind it."""

    time: clock.Clock
    name: str = "imaginary"
    list_lag_s: float = 0.0
    creates: deque[Create] = field(default_factory=deque)
    """The next answers; then MADE."""
    destroys: deque[Destroy] = field(default_factory=deque)
    lists: deque[providers.ProviderError] = field(default_factory=deque)
    """What the next list calls raise."""
    machines: list[Machine] = field(default_factory=list)
    """All there ever were."""
    orders: list[Order] = field(default_factory=list)
    """Every create call that was received."""
    calls: Counter[str] = field(default_factory=Counter)
    hangs: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: somebody hangs."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def alive(self) -> list[Machine]:
        """What exists, and bills."""
        now = self.time.now()
        return [machine for machine in self.machines if machine.gone is None and machine.made <= now]

    def make(self, name: str, price: float = 1.0, *, in_s: float = 0.0, listed_in_s: float = 0.0) -> Machine:
        """Makes a machine, whoever asked for it, and lists it a while after that."""
        made_at = self.time.now() + timedelta(seconds=in_s)
        listed_from = made_at + timedelta(seconds=listed_in_s)
        made = Machine(f"im-{next(self._numbers)}", name, Decimal(str(price)), made_at, listed_from)
        self.machines.append(made)
        return made

    def lose(self, machine: Machine) -> None:
        """It is gone without anybody's asking."""
        machine.gone = machine.listed_until = self.time.now()

    def bill_micro_usd(self, start: datetime, end: datetime) -> int:
        """What the machines cost between two times, as their prices are now."""
        return sum(
            int(one.price * 1_000_000) * (until - begin) // timedelta(hours=1)
            for one in self.machines
            if (until := min(one.gone or end, end)) > (begin := max(one.made, start))
        )

    async def offers(self) -> Sequence[Offer]:
        """One kind of machine."""
        return [Offer(self.name, "L4", 1, 1.0, vram_bytes=24 << 30)]

    async def create(self, order: Order) -> Listed:
        """As the next answer says."""
        self.calls["create"] += 1
        await asyncio.sleep(0)
        answer = self.creates.popleft() if self.creates else Create.MADE
        if answer is not Create.UNREACHABLE:
            self.orders.append(order)
        made = None
        if answer in _MADE:
            made = self.make(
                order.name,
                order.offer.price_usd_per_hour,
                in_s=120.0 if "later" in answer else 0.0,
                listed_in_s=self.list_lag_s if "listed late" in answer else 0.0,
            )
        await self._answer(answer)
        assert made is not None
        return _listed(made)

    async def list(self) -> Sequence[Listed]:
        """What is to be seen now."""
        self.calls["list"] += 1
        await asyncio.sleep(0)
        if self.lists:
            raise self.lists.popleft()
        now = self.time.now()
        return [
            _listed(one)
            for one in self.machines
            if one.listed_from <= now and (one.listed_until is None or one.listed_until > now)
        ]

    async def destroy(self, provider_pod_id: str) -> None:
        """As the next answer says."""
        self.calls["destroy"] += 1
        await asyncio.sleep(0)
        answer = self.destroys.popleft() if self.destroys else Destroy.DONE
        for machine in self.alive:
            if machine.provider_pod_id == provider_pod_id and answer in _DONE:
                self.lose(machine)
                if answer is Destroy.DONE_LISTED_ON:
                    machine.listed_until = self.time.now() + timedelta(seconds=30)
        await self._answer(answer)

    async def close(self) -> None:
        """Nothing to give back."""

    async def _answer(self, answer: str) -> None:
        await asyncio.sleep(0)
        words = answer.split(",")[0]
        if words == "hangs":
            self.hangs.set()
            await asyncio.Event().wait()
        if words in _ERRORS:
            raise _ERRORS[words]()


def _listed(machine: Machine) -> Listed:
    return Listed(
        machine.provider_pod_id,
        machine.name,
        machine.status,
        float(machine.price),
        gpu_type="L4",
        gpu_count=1,
        create_time=machine.made,
        detail=machine.detail,
    )
