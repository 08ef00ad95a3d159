"""The plan of a seed: which faults happen when, to whom and for how long. Pure: the same seed, the same plan.

At most one fault at a time holds a process or an edge, and at most `_AT_ONCE` last at the same time, so that the
system has something to recover with; one fault may hold several processes ("all schedulers").
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GATEWAYS = ("gateway0", "gateway1")
SCHEDULERS = ("scheduler0", "scheduler1")
WORKERS = ("worker0", "worker1", "worker2")
SERVICES = (*GATEWAYS, *SCHEDULERS, *WORKERS)
POSTGRES, REDIS = "postgres", "redis"
EDGES = tuple(
    [f"client>{g}" for g in GATEWAYS]
    + [f"{g}>{s}" for g in GATEWAYS for s in SCHEDULERS]
    + [f"{w}>{s}" for w in WORKERS for s in SCHEDULERS]
    + [f"{s}>{store}" for s in SCHEDULERS for store in (POSTGRES, REDIS)]
    + [f"{g}>{REDIS}" for g in GATEWAYS]
)
"""Who connects to whom; a proxy stands on each."""

_FIRST_FAULT_S = 1.5
_MEAN_GAP_S = 2.4
_AT_ONCE = 3


class Kind(enum.StrEnum):
    """What is done. `lasts_s` of a fault is how long until it is undone, where there is something to undo."""

    KILL = "kill"
    """SIGKILL; started again when it is over."""
    TERMINATE = "terminate"
    """SIGTERM; must end by itself with status 0; started again when it is over."""
    PAUSE = "pause"
    """SIGSTOP, then SIGCONT."""
    PAUSE_LEADER = "pause_leader"
    """SIGSTOP of the scheduler that leads, for longer than it may lead unheard; then SIGCONT."""
    KILL_EXECUTOR = "kill_executor"
    PAUSE_EXECUTOR = "pause_executor"
    REFUSE = "refuse"
    """New connections are refused and those there are reset."""
    RESET = "reset"
    """Every connection is reset once."""
    HOLD = "hold"
    """A partition: nothing passes, nobody is told, what was sent arrives afterwards."""
    HOLD_UP = "hold_up"
    HOLD_DOWN = "hold_down"
    SWALLOW = "swallow"
    """Half-open: what is sent vanishes."""
    SWALLOW_UP = "swallow_up"
    SWALLOW_DOWN = "swallow_down"
    DELAY = "delay"
    THROTTLE = "throttle"
    REDIS_FLUSH = "redis_flush"
    REDIS_RESTART = "redis_restart"
    """SIGTERM, then a start from its append-only file."""
    REDIS_CRASH = "redis_crash"
    """SIGKILL, then a start from its append-only file."""
    REDIS_WIPE = "redis_wipe"
    """SIGKILL, its files removed, then a start."""
    REDIS_FORGET = "redis_forget"
    """SIGKILL, the end of its append-only file cut off, then a start: as after a power cut, or on a late replica."""
    REDIS_CLIENT_PAUSE = "redis_client_pause"
    REDIS_FULL = "redis_full"
    """maxmemory below what it uses (noeviction), then back."""
    POSTGRES_RESTART = "postgres_restart"
    """Immediate shutdown, as after a crash, then recovery."""
    POSTGRES_KILL = "postgres_kill"
    """SIGKILL of the postmaster."""
    POSTGRES_CRASH_BACKEND = "postgres_crash_backend"
    """SIGKILL of one backend: Postgres drops every connection and recovers by itself."""
    POSTGRES_TERMINATE = "postgres_terminate"
    """pg_terminate_backend of some backends."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: at `at_s` after the load began, on `targets` (processes or edges), undone `lasts_s` later."""

    at_s: float
    kind: Kind
    targets: tuple[str, ...]
    lasts_s: float = 0.0
    strength: float = 0.0
    """DELAY: seconds; THROTTLE: bytes/s; POSTGRES_TERMINATE, REDIS_FORGET: share of the backends, of the file."""

    @property
    def label(self) -> str:
        """How it is counted: its kind and the kind of its target."""
        if self.kind in _STORE_KINDS or not self.targets:
            return self.kind.value
        kinds = [">".join(_kind_of(end) for end in target.split(">")) for target in self.targets]
        if len(set(kinds)) == 1:
            return f"{self.kind} {kinds[0]}" + (" (several)" if len(kinds) > 1 else "")
        return f"{self.kind} several"

    @property
    def held(self) -> frozenset[str]:
        """What no other fault may touch meanwhile."""
        if self.kind is Kind.PAUSE_LEADER:
            return frozenset(SCHEDULERS)
        return frozenset(t.removeprefix("executor of ") for t in self.targets)

    def __str__(self) -> str:
        strength = f" {self.strength:.3g}" if self.strength else ""
        return f"{self.at_s:6.2f} s  {self.kind}{strength} {','.join(self.targets)}  for {self.lasts_s:.2f} s"


_STORE_KINDS = frozenset(k for k in Kind if k.startswith(("redis_", "postgres_"))) | {Kind.PAUSE_LEADER}
_NETWORK_KINDS = (
    Kind.REFUSE, Kind.HOLD, Kind.HOLD_UP, Kind.HOLD_DOWN, Kind.SWALLOW, Kind.SWALLOW_UP, Kind.SWALLOW_DOWN,
    Kind.DELAY, Kind.THROTTLE,
)  # fmt: skip
_Draw = Callable[[random.Random, float], Fault]


def plan(seed: int, seconds: float) -> tuple[Fault, ...]:
    """The faults of a seed over `seconds`, by time; none lasts beyond the end."""
    dice = random.Random(f"nemesis {seed}")
    faults: list[Fault] = []
    now = _FIRST_FAULT_S
    while now < seconds - 1.0:
        active = [f for f in faults if f.at_s + f.lasts_s > now]
        fault = _draw(dice, now, seconds)
        # Drawn anew until it fits: the dice are rolled in the same order for everyone who has the seed.
        while any(fault.held & f.held for f in active):
            fault = _draw(dice, now, seconds)
        faults.append(fault)
        now += dice.expovariate(1 / _MEAN_GAP_S) + 0.15
        ends = sorted(f.at_s + f.lasts_s for f in faults if f.at_s + f.lasts_s > now)
        if len(ends) >= _AT_ONCE:
            now = ends[-_AT_ONCE] + 0.05
    return tuple(faults)


def _draw(dice: random.Random, now: float, seconds: float) -> Fault:
    draws, weights = zip(*_REPERTOIRE, strict=True)
    draw: _Draw = dice.choices(draws, weights)[0]
    fault = draw(dice, round(now, 3))
    lasts = round(min(fault.lasts_s, seconds - fault.at_s), 3)
    return Fault(fault.at_s, fault.kind, fault.targets, lasts, fault.strength)


def _some(dice: random.Random, group: Sequence[str]) -> tuple[str, ...]:
    """One of a group mostly, sometimes several or all of it."""
    count = dice.choices((1, 2, len(group)), (8, 1, 1))[0]
    return tuple(sorted(dice.sample(group, min(count, len(group)))))


def _group(dice: random.Random) -> Sequence[str]:
    return dice.choice((GATEWAYS, SCHEDULERS, SCHEDULERS, WORKERS, WORKERS))


def _kill(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.KILL, _some(dice, _group(dice)), dice.uniform(0.0, 3.0))


def _kill_everybody(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.KILL, SERVICES, dice.uniform(0.0, 2.0))


def _terminate(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.TERMINATE, _some(dice, _group(dice)), dice.uniform(0.0, 2.0))


def _pause(dice: random.Random, now: float) -> Fault:
    # Both sides of the worker's lease (10 s) and of the resume grace (2 s).
    return Fault(
        now, Kind.PAUSE, _some(dice, _group(dice)), dice.choice((1.0, 3.0, 6.0, 13.0)) * dice.uniform(0.8, 1.2)
    )


def _pause_leader(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.PAUSE_LEADER, ("the leader",), dice.uniform(4.0, 16.0))


def _pause_store(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.PAUSE, (dice.choice((POSTGRES, REDIS)),), dice.uniform(0.5, 8.0))


def _executor(dice: random.Random, now: float) -> Fault:
    if dice.random() < 0.5:
        return Fault(now, Kind.KILL_EXECUTOR, (f"executor of {dice.choice(WORKERS)}",))
    return Fault(now, Kind.PAUSE_EXECUTOR, (f"executor of {dice.choice(WORKERS)}",), dice.uniform(1.0, 12.0))


def _network(dice: random.Random, now: float) -> Fault:
    return _weather(dice, now, (dice.choice(EDGES),))


def _isolate(dice: random.Random, now: float) -> Fault:
    """One process is cut off from everybody."""
    victim = dice.choice((*SERVICES, POSTGRES, REDIS))
    return _weather(dice, now, tuple(e for e in EDGES if victim in e.split(">")))


def _weather(dice: random.Random, now: float, edges: tuple[str, ...]) -> Fault:
    kind = dice.choice(_NETWORK_KINDS)
    strength = {Kind.DELAY: dice.uniform(0.01, 0.3), Kind.THROTTLE: dice.uniform(2e4, 1e6)}.get(kind, 0.0)
    return Fault(now, kind, edges, dice.choice((0.5, 3.0, 8.0)) * dice.uniform(0.7, 1.5), round(strength, 3))


def _reset(dice: random.Random, now: float) -> Fault:
    return Fault(now, Kind.RESET, tuple(sorted(dice.sample(EDGES, dice.choice((1, 1, 4, len(EDGES)))))))


def _redis(dice: random.Random, now: float) -> Fault:
    lasting = {
        Kind.REDIS_FLUSH: 0.0,
        Kind.REDIS_RESTART: 1.5,
        Kind.REDIS_CRASH: 1.5,
        Kind.REDIS_WIPE: 1.5,
        Kind.REDIS_FORGET: 1.5,
        Kind.REDIS_CLIENT_PAUSE: 4.0,
        Kind.REDIS_FULL: 5.0,
    }
    kind = dice.choice(tuple(lasting))
    share = round(dice.uniform(0.01, 0.2), 3) if kind is Kind.REDIS_FORGET else 0.0
    return Fault(now, kind, (REDIS,), lasting[kind] * dice.uniform(0.2, 1.5), share)


def _postgres(dice: random.Random, now: float) -> Fault:
    lasting = {
        Kind.POSTGRES_RESTART: 2.0,
        Kind.POSTGRES_KILL: 2.0,
        Kind.POSTGRES_CRASH_BACKEND: 0.0,
        Kind.POSTGRES_TERMINATE: 0.0,
    }
    kind = dice.choice(tuple(lasting))
    share = round(dice.uniform(0.1, 1.0), 2) if kind is Kind.POSTGRES_TERMINATE else 0.0
    return Fault(now, kind, (POSTGRES,), lasting[kind] * dice.uniform(0.2, 1.5), share)


_REPERTOIRE: tuple[tuple[_Draw, float], ...] = (
    (_kill, 5),
    (_kill_everybody, 0.4),
    (_terminate, 2),
    (_pause, 4),
    (_pause_leader, 1),
    (_pause_store, 1),
    (_executor, 3),
    (_network, 7),
    (_isolate, 2),
    (_reset, 2),
    (_redis, 4),
    (_postgres, 3),
)


def _kind_of(name: str) -> str:
    """`worker2` is a worker."""
    return name.removeprefix("executor of ").rstrip("0123456789")
