"""What the stand-ins of all clouds have in common: pods that age, a bill, a quota, and ways to misbehave.

Promises: what a pod is at a moment follows from its creation and that moment alone, so that a test moves it on by
moving the clock; whatever a call had as its effect is had before its answer goes out, or fails to; nothing but the
bill remembers a pod that is gone. Clock: the injected one, for pods, bill and quota alike. Failure: a client that goes
away leaves the effect of its call behind, as at the real ones.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, Self

from aiohttp import web

from podium_runtime import clock as clocks


class Operation(StrEnum):
    """A kind of call that can go wrong."""

    OFFERS = "OFFERS"
    CREATE = "CREATE"
    LIST = "LIST"
    DESTROY = "DESTROY"


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What goes wrong with one call, or with the pod that it creates. Seconds are of the stand-in's clock.

    "After creating" is after the call had its effect, whatever it was for.
    """

    no_capacity: bool = False
    refused: bool = False
    unauthorized: bool = False
    out_of_funds: bool = False
    fails_before: bool = False
    """500, without any effect."""
    fails_after_creating: bool = False
    """500, and the effect is there."""
    times_out_before: bool = False
    times_out_after_creating: bool = False
    breaks_after_creating: bool = False
    """The connection is cut instead of an answer."""
    garbles_after_creating: bool = False
    """The answer is none that can be read."""
    throttled: float | None = None
    """429, and come again after so many seconds."""
    echoes: bool = False
    """A refusal repeats all that was sent, the credentials too."""
    never_boots: bool = False
    dies: float | None = None
    """Stops so long after its creation; it is listed and billed on."""
    vanishes: float | None = None
    """Is gone so long after its creation, from list and bill."""
    returns_without_gpu: float | None = None
    """Comes back from a stop of the provider's own without its GPU, so long after its creation."""
    wrong_cuda: bool = False
    listed_late_s: float = 0.0
    """Is not listed for so long."""
    lists_stale: bool = False
    """Answers a list call with what the one before it showed."""

    @property
    def hangs(self) -> bool:
        """Whether it takes a caller's patience to end the call."""
        return self.times_out_before or self.times_out_after_creating


WELL = Misbehaviour()
MISBEHAVIOUR = web.RequestKey("misbehaviour", Misbehaviour)
"""What was decided about a request."""


class Plan(Protocol):
    """Decides what goes wrong."""

    def next(self, operation: Operation) -> Misbehaviour:
        """What goes wrong with this call."""


class Scripted:
    """Misbehaves as told, call by call; well when it was told nothing."""

    def __init__(self) -> None:
        self._queues: dict[Operation, deque[Misbehaviour]] = defaultdict(deque)

    def add(self, operation: Operation, *misbehaviours: Misbehaviour) -> None:
        """For the next calls of a kind."""
        self._queues[operation].extend(misbehaviours)

    def next(self, operation: Operation) -> Misbehaviour:
        queue = self._queues[operation]
        return queue.popleft() if queue else WELL


class Seeded:
    """Misbehaves at random, the same way for the same seed and the same order of calls."""

    def __init__(self, seed: int, odds: Mapping[Operation, Mapping[Misbehaviour, float]]) -> None:
        self._random = random.Random(seed)
        self._odds = odds

    def next(self, operation: Operation) -> Misbehaviour:
        left = self._random.random()
        for misbehaviour, probability in self._odds.get(operation, {}).items():
            left -= probability
            if left < 0:
                return misbehaviour
        return WELL


def rough(probability: float) -> Mapping[Operation, Mapping[Misbehaviour, float]]:
    """Odds under which each thing that comes and goes in a cloud happens to a call with this probability."""
    broken = (
        Misbehaviour(fails_before=True),
        Misbehaviour(fails_after_creating=True),
        Misbehaviour(times_out_before=True),
        Misbehaviour(times_out_after_creating=True),
        Misbehaviour(breaks_after_creating=True),
        Misbehaviour(throttled=5.0),
    )
    pods = (
        Misbehaviour(no_capacity=True),
        Misbehaviour(garbles_after_creating=True),
        Misbehaviour(never_boots=True),
        Misbehaviour(dies=600.0),
        Misbehaviour(vanishes=900.0),
        Misbehaviour(returns_without_gpu=600.0),
        Misbehaviour(wrong_cuda=True),
        Misbehaviour(listed_late_s=60.0),
        Misbehaviour(fails_after_creating=True, listed_late_s=60.0),
    )
    return {
        Operation.OFFERS: dict.fromkeys(broken, probability),
        Operation.CREATE: dict.fromkeys((*broken, *pods), probability),
        Operation.LIST: dict.fromkeys((*broken, Misbehaviour(lists_stale=True)), probability),
        Operation.DESTROY: dict.fromkeys(broken, probability),
    }


class Phase(StrEnum):
    """Where a pod stands, whatever the cloud calls it."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


@dataclass(slots=True)
class Pod:
    """A machine of the stand-in. It ages; only its deletion is written down."""

    number: int
    pod_id: str
    name: str
    create_time: datetime
    price_usd_per_hour: float
    gpu_type: str
    gpu_count: int
    body: Mapping[str, Any] = field(repr=False)
    """The create call's."""
    misbehaviour: Misbehaviour = WELL
    delete_time: datetime | None = None

    def end(self, now: datetime) -> datetime | None:
        """When it ceased to exist and to bill; None if it exists."""
        vanishes, deleted = self._reached(now, self.misbehaviour.vanishes), self.delete_time
        return vanishes if deleted is None else deleted if vanishes is None else min(deleted, vanishes)

    def phase(self, now: datetime, pace: Pace) -> Phase:
        """Where it stands, while it exists."""
        age = (now - self.create_time).total_seconds()
        if self._reached(now, self.misbehaviour.dies):
            return Phase.STOPPED
        if age < pace.provisioning_s:
            return Phase.PROVISIONING
        if self.misbehaviour.never_boots or age < pace.provisioning_s + pace.starting_s:
            return Phase.STARTING
        return Phase.RUNNING

    def has_gpu(self, now: datetime) -> bool:
        """Whether its GPU is still its own."""
        return self.gpu_count > 0 and not self._reached(now, self.misbehaviour.returns_without_gpu)

    def is_listed(self, now: datetime) -> bool:
        """Whether a list that is up to date shows it."""
        age = (now - self.create_time).total_seconds()
        return self.end(now) is None and age >= self.misbehaviour.listed_late_s

    def _reached(self, now: datetime, age_s: float | None) -> datetime | None:
        if age_s is None or now < self.create_time + timedelta(seconds=age_s):
            return None
        return self.create_time + timedelta(seconds=age_s)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast pods come up, in seconds."""

    provisioning_s: float = 5.0
    starting_s: float = 25.0


@dataclass(frozen=True, slots=True)
class Charge:
    """A line of the bill: one pod, from its creation to its deletion or to now."""

    pod_id: str
    name: str
    span: timedelta
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Window:
    """So many calls in so many seconds."""

    name: str
    calls: int
    seconds: int


class Quota:
    """Counts calls in fixed windows."""

    def __init__(self, time: clocks.Clock, windows: Sequence[Window]) -> None:
        self._time = time
        self.windows = windows
        self._used: dict[str, tuple[int, int]] = {}

    def take(self) -> float:
        """Counts a call. Returns 0, or how long to wait, in seconds, when it is one too many."""
        over = [self.reset_s(window) for window in self.windows if self.left(window) == 0]
        for window in self.windows:
            turn, used = self._window(window)
            self._used[window.name] = (turn, used + 1)
        return max(over, default=0.0)

    def left(self, window: Window) -> int:
        """Calls that it has left."""
        return max(0, window.calls - self._window(window)[1])

    def reset_s(self, window: Window) -> float:
        """Until it begins anew, in seconds."""
        return window.seconds - self._time.monotonic() % window.seconds

    def _window(self, window: Window) -> tuple[int, int]:
        turn = int(self._time.monotonic() // window.seconds)
        known, used = self._used.get(window.name, (turn, 0))
        return (turn, used if known == turn else 0)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn(ABC):
    """A cloud on loopback. `async with` serves it; leaving lets go of every call that hangs."""

    prefix = ""
    """First part of every path."""
    foreign = ("", 1, 1.0)
    """GPU type, GPUs and USD per hour of somebody else's pods."""

    def __init__(
        self,
        time: clocks.Clock,
        *,
        credential: str,
        plan: Plan | None = None,
        pace: Pace | None = None,
        windows: Sequence[Window] = (),
    ) -> None:
        self.time = time
        self.credential = credential
        self.script = Scripted()
        self.plan = plan or self.script
        self.pace = pace or Pace()
        self.quota = Quota(time, windows)
        self.pods: dict[str, Pod] = {}
        """Every one that ever was, by id."""
        self._existing: dict[str, Pod] = {}
        """Those of them that existed when they were last looked at: none begins to exist again."""
        self.calls: list[tuple[str, str]] = []
        """Method and path of every call."""
        self.agents: set[str] = set()
        """Every User-Agent seen."""
        self.broken: list[Exception] = []
        """What went wrong in the stand-in itself: a 500 that nobody ordered."""
        self._shown: list[Pod] = []
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._conduct])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{self.prefix}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        if self.broken:
            raise self.broken[0]

    async def close(self) -> None:
        """Serves no more: connections are refused from now on."""
        self._closing.set()
        await self._runner.cleanup()

    # --- what a cloud defines -----------------------------------------------------------------------------

    @abstractmethod
    def routes(self) -> Sequence[web.RouteDef]:
        """Of its API."""

    @abstractmethod
    def operation(self, request: web.Request) -> Operation | None:
        """What kind of call it is."""

    @abstractmethod
    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        """An error in the cloud's own shape."""

    @abstractmethod
    def no_capacity(self) -> web.Response:
        """What a create call is answered when there is no machine."""

    def out_of_funds(self) -> web.Response:
        """What a create call is answered when the account is empty."""
        return self.problem(402, "The balance of this account is too low.")

    def limits(self) -> Mapping[str, str]:
        """Headers that tell of the quota."""
        return {}

    # --- what tests look at -------------------------------------------------------------------------------

    def existing(self) -> list[Pod]:
        """Pods that exist and bill now, listed or not."""
        now = self.time.now()
        self._existing = {pod_id: pod for pod_id, pod in self._existing.items() if pod.end(now) is None}
        return list(self._existing.values())

    def bill(self) -> list[Charge]:
        """What every pod has cost up to now, exactly."""
        return [self._charge(pod) for pod in self.pods.values()]

    def total_usd(self) -> Decimal:
        """The sum of the bill."""
        return sum((charge.usd for charge in self.bill()), Decimal())

    def _charge(self, pod: Pod) -> Charge:
        now = self.time.now()
        span = (pod.end(now) or now) - pod.create_time
        usd = Decimal(str(pod.price_usd_per_hour)) * (span // timedelta(microseconds=1)) / 3_600_000_000
        return Charge(pod.pod_id, pod.name, span, usd)

    # --- what a cloud's handlers use ----------------------------------------------------------------------

    def add(self, pod_id: str, name: str, gpu_type: str, gpu_count: int, price: float, **more: Any) -> Pod:
        """A pod that exists from now on. `price` in USD per hour; `more` is further fields of Pod."""
        more.setdefault("body", {})
        pod = Pod(len(self.pods) + 1, pod_id, name, self.time.now(), price, gpu_type, gpu_count, **more)
        self.pods[pod_id] = self._existing[pod_id] = pod
        return pod

    def add_foreign(self, name: str) -> Pod:
        """Somebody else's pod on the same account."""
        return self.add(str(900_000_000 + len(self.pods)), name, *self.foreign)

    def shown(self, misbehaviour: Misbehaviour) -> list[Pod]:
        """What a list call shows, oldest first."""
        if not misbehaviour.lists_stale:
            now = self.time.now()
            self._shown = [pod for pod in self.existing() if pod.is_listed(now)]
        return self._shown

    def find(self, pod_id: str) -> Pod | None:
        """A pod that exists."""
        pod = self.pods.get(pod_id)
        return pod if pod is not None and pod.end(self.time.now()) is None else None

    def delete(self, pod: Pod) -> None:
        """It exists no more."""
        pod.delete_time = self.time.now()

    # --- conduct ------------------------------------------------------------------------------------------

    @web.middleware
    async def _conduct(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        self.agents.add(request.headers.get("User-Agent", ""))
        try:
            response = await self._answer(request, handler)
        except Exception as error:
            self.broken.append(error)
            raise
        response.headers.extend(self.limits())
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.credential}":
            return self.problem(401, "The API key is not valid.")
        wait_s = self.quota.take()
        if wait_s:
            return self._throttled(wait_s)
        operation = self.operation(request)
        misbehaviour = self.plan.next(operation) if operation else WELL
        request[MISBEHAVIOUR] = misbehaviour
        refusal = await self._before(request, misbehaviour)
        if refusal is not None:
            return refusal
        return await self._after(request, misbehaviour, await handler(request))

    async def _before(self, request: web.Request, misbehaviour: Misbehaviour) -> web.Response | None:
        if misbehaviour.times_out_before:
            await self._closing.wait()
            return self.problem(503, "Too late.")
        if misbehaviour.throttled is not None:
            return self._throttled(misbehaviour.throttled)
        if misbehaviour.fails_before:
            return self.problem(500, "Something went wrong.")
        if misbehaviour.unauthorized:
            return self.problem(401, "The API key was revoked.")
        if misbehaviour.out_of_funds:
            return self.out_of_funds()
        if misbehaviour.no_capacity:
            return self.no_capacity()
        if misbehaviour.refused or misbehaviour.echoes:
            sent = f": {request.headers['Authorization']} {await request.text()}" if misbehaviour.echoes else ""
            return self.problem(422, f"This is not acceptable{sent}")
        return None

    async def _after(
        self, request: web.Request, misbehaviour: Misbehaviour, response: web.StreamResponse
    ) -> web.StreamResponse:
        if misbehaviour.times_out_after_creating:
            await self._closing.wait()
        if misbehaviour.fails_after_creating:
            return self.problem(500, "Something went wrong.")
        if misbehaviour.garbles_after_creating:
            return web.Response(status=response.status, text="<html>", content_type="text/html")
        if misbehaviour.breaks_after_creating and request.transport is not None:
            request.transport.abort()
        return response

    def _throttled(self, wait_s: float) -> web.Response:
        return self.problem(429, "Too many requests.", {"Retry-After": str(max(1, round(wait_s)))})
