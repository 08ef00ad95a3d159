"""Whether a GPU is fit for work, judged from what the driver says about it.

Pure: a reading, what was known before it, and a monotonic time make a new state and a verdict.

```mermaid
stateDiagram-v2
    [*] --> HEALTHY
    [*] --> FAULTED: the driver could not reach it when it was found
    HEALTHY --> COOLING: hot (its own slowdown temperature, else 90 degrees), or the hardware slows down for heat
    COOLING --> HEALTHY: 10 degrees below that, and not slowed down, for 3 readings in a row
    HEALTHY --> FAULTED: lost, reset needed, unreadable 3 times running, fatal XID, uncorrected memory errors grew
    COOLING --> FAULTED: the same
    FAULTED --> FAULTED: again, before it has returned (the rest begins anew)
    FAULTED --> HEALTHY: rested (after an XID or a memory error), and 5 good readings in a row
    FAULTED --> COOLING: the same, but hot
```

What lasts (lost, reset needed, no answer) is over when the driver says so. An XID and a memory error are events, and
nothing tells that they are over. So the device rests for a minute in which none may follow, and twice as long when it
happens again within a day of its return. A FAULTED device's executor is replaced, for its CUDA context is suspect; the
fresh one has to pass its canaries before it computes, so a device that returns too early does no harm.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class Trouble(enum.Enum):
    """Why a reading says nothing about the device."""

    NONE = ""
    LOST = "The driver cannot reach this GPU any more; the machine has to be rebooted"
    RESET_REQUIRED = "The driver says that this GPU has to be reset"
    UNREADABLE = "The driver cannot read this GPU"
    SILENT = "The driver does not answer about this GPU"


def sentence(trouble: Trouble, detail: str) -> str:
    """For an operator. `detail`: the driver's own words, or empty."""
    words = f" ({detail.rstrip('.')})" if detail else ""
    return f"{trouble.value}{words}."


@dataclass(frozen=True, slots=True)
class Reading:
    """What the driver said about one device. None, and 0 of memory, stand for what it does not tell."""

    index: int
    uuid: str
    name: str = ""
    vram_total_bytes: int = 0
    vram_used_bytes: int = 0
    vram_free_bytes: int = 0
    utilization_percent: int | None = None
    temperature_c: int | None = None
    slowdown_c: int | None = None
    """Where the hardware begins to slow itself down."""
    thermal_slowdown: bool = False
    """Whether the hardware slows itself down for heat now."""
    power_w: float | None = None
    ecc_errors: int | None = None
    """Uncorrected memory errors since the driver was loaded."""
    xids: tuple[int, ...] = ()
    """XID errors since the reading before, the oldest first."""
    trouble: Trouble = Trouble.NONE
    detail: str = ""
    """The driver's own words about the trouble."""


class Health(enum.Enum):
    """What may be asked of a device."""

    HEALTHY = "HEALTHY"
    """Anything. Heat or a fault moves it on."""
    COOLING = "COOLING"
    """Nothing new; what it has, it may finish. Cool readings move it on, or a fault."""
    FAULTED = "FAULTED"
    """Nothing. Rest and good readings move it on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a reading."""

    health: Health = Health.HEALTHY
    reason: str = ""
    """One sentence for an operator; empty when healthy."""
    xids: tuple[int, ...] = ()
    """XID errors since the worker began, each once, the newest last, at most 8."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the judge draws its lines."""

    hot_c: int = 90
    """For a device that does not tell its slowdown temperature."""
    cooling_band_c: int = 10
    """How far below that it must be to work again."""
    cool_readings: int = 3
    """Cool ones in a row that end COOLING."""
    bad_readings: int = 3
    """Unreadable or silent ones in a row that make a fault."""
    good_readings: int = 5
    """Good ones in a row that end a fault."""
    rest_s: float = 60.0
    """Seconds of rest after an XID or a memory error, the first time."""
    longest_rest_s: float = 3600.0
    forgiven_after_s: float = 86_400.0
    """Seconds since the last rest's end after which the next one is short again."""


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of one device."""

    health: Health = Health.HEALTHY
    reason: str = ""
    good: int = 0
    """Readings in a row that speak for the next better state."""
    bad: int = 0
    """Unreadable or silent readings in a row."""
    ecc_errors: int | None = None
    events: int = 0
    """Rests after XIDs and memory errors, until they are forgiven."""
    rest_until: float = 0.0
    """Monotonic."""
    xids: tuple[int, ...] = ()


# XIDs after which the device itself is not to be trusted: those whose immediate action in NVIDIA's catalogue is to
# reset the GPU or to restart the machine, and 48 and 74, which have workflows of their own there
# (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html). Left out on purpose:
# - 13, 31, 43, 45, 68, 109: the application's, as NVIDIA's k8s-device-plugin has it too (internal/rm/health.go). 109, a
#   context switch that timed out, hangs the executor, and the watchdog sees to that.
# - 63, 92: errors that were mended or corrected. 94: an uncorrected error whose damage stayed within one process; the
#   count of memory errors that comes with it lets the device rest and replaces that process.
# - 136, 144 to 150, 155: links between GPUs, over which nothing goes here. 154 only says that the recovery action has
#   changed, and that is part of every reading.
FATAL_XIDS = {
    46: "the GPU timed out",
    48: "a double-bit memory error",
    62: "the power management unit halted",
    64: "a bad memory row could not be remapped",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    95: "an uncontained memory error",
    110: "a security fault",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    140: "an unrecovered memory error",
    143: "the GPU could not be initialised",
    158: "a fatal timeout of the GPU",
}

_XIDS_REMEMBERED = 8
# What a driver says of temperatures is not always one.
_PLAUSIBLE_C = range(60, 121)


def judge(state: State, reading: Reading, now: float, limits: Limits | None = None) -> tuple[State, Verdict]:
    """Takes one reading in. `now` is monotonic, in seconds."""
    limits = limits or Limits()
    known = _remember(state, reading)
    event = _event(state, reading)
    lasting = _lasting(known, reading, limits)
    if event:
        known = _rest(known, now, limits)
    if event or lasting:
        known = replace(known, health=Health.FAULTED, reason=event or lasting, good=0)
    elif reading.trouble is not Trouble.NONE:
        # Not yet enough to condemn it, but nothing that speaks for it.
        known = replace(known, good=0)
    elif known.health is Health.FAULTED:
        known = _returning(known, reading, now, limits)
    else:
        known = _warmth(known, reading, limits)
    return known, Verdict(known.health, known.reason, known.xids)


def _remember(state: State, reading: Reading) -> State:
    xids = state.xids
    for xid in reading.xids:
        xids = (*(other for other in xids if other != xid), xid)
    silent = reading.trouble in (Trouble.UNREADABLE, Trouble.SILENT)
    return replace(
        state,
        xids=xids[-_XIDS_REMEMBERED:],
        bad=state.bad + 1 if silent else 0,
        # A smaller count comes of a driver that was loaded anew: it is where we count from now.
        ecc_errors=state.ecc_errors if reading.ecc_errors is None else reading.ecc_errors,
    )


def _event(state: State, reading: Reading) -> str:
    """A sentence on what happened since the last reading and condemns the device; empty for nothing."""
    fatal = [xid for xid in reading.xids if xid in FATAL_XIDS]
    if fatal:
        # The first: what follows are its consequences.
        return f"The driver reported XID {fatal[0]}: {FATAL_XIDS[fatal[0]]}."
    if reading.ecc_errors is None or state.ecc_errors is None or reading.ecc_errors <= state.ecc_errors:
        return ""
    return f"Its uncorrected memory errors grew from {state.ecc_errors} to {reading.ecc_errors}."


def _lasting(known: State, reading: Reading, limits: Limits) -> str:
    """A sentence on what is the matter now; empty for nothing."""
    if reading.trouble is Trouble.NONE:
        return ""
    patient = reading.trouble in (Trouble.UNREADABLE, Trouble.SILENT)
    if patient and known.bad < limits.bad_readings:
        return ""
    return sentence(reading.trouble, reading.detail)


def _rest(known: State, now: float, limits: Limits) -> State:
    events = known.events + 1
    if known.events and known.health is Health.FAULTED:
        # One incident has many messages.
        events = known.events
    elif known.events and now - known.rest_until > limits.forgiven_after_s:
        events = 1
    rest_s = min(limits.longest_rest_s, limits.rest_s * 2.0 ** min(events - 1, 30))
    return replace(known, events=events, rest_until=now + rest_s)


def _returning(known: State, reading: Reading, now: float, limits: Limits) -> State:
    known = replace(known, good=known.good + 1)
    if known.good < limits.good_readings or now < known.rest_until:
        return known
    return _warmth(replace(known, health=Health.HEALTHY, reason="", good=0), reading, limits)


def _warmth(known: State, reading: Reading, limits: Limits) -> State:
    own = reading.slowdown_c
    hot_c = own if own is not None and own in _PLAUSIBLE_C else limits.hot_c
    degrees = reading.temperature_c
    if reading.thermal_slowdown or (degrees is not None and degrees >= hot_c):
        # The reason stays as it was at first, so that it is no news with every degree.
        reason = known.reason if known.health is Health.COOLING else _heat(reading, hot_c - limits.cooling_band_c)
        return replace(known, health=Health.COOLING, reason=reason, good=0)
    if known.health is not Health.COOLING:
        return known
    cool = degrees is None or degrees <= hot_c - limits.cooling_band_c
    known = replace(known, good=known.good + 1 if cool else 0)
    if known.good < limits.cool_readings:
        return known
    return replace(known, health=Health.HEALTHY, reason="", good=0)


def _heat(reading: Reading, cool_c: int) -> str:
    if reading.temperature_c is None:
        return "Its hardware slows down for heat."
    why = ", and its hardware slows down for it" if reading.thermal_slowdown else ""
    return f"It is {reading.temperature_c} degrees Celsius hot{why}; it has to cool down to {cool_c}."
