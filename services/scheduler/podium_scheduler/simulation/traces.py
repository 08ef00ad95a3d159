"""Traces: which jobs come when. Built-in ones for the published figures, and files.

A CSV file has a header with `at_s,items` and, if wanted, `window_s,workload`; a JSON file is a list of objects with the
same names, or an object with `name`, `horizon_s` and such a list as `arrivals`. `at_s` counts from the begin of the
trace; an empty or missing `window_s` means that the job has no window.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

HOUR_S = 3600.0
DAY_S = 86_400.0
WORKLOAD = "clip"
ITEMS_PER_S = 50
"""Of one RTX 4090, in the built-in market: the built-in traces are made in its seconds."""


class BadTrace(ValueError):
    """A file is no trace. The message is one line for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that comes."""

    at_s: float
    items: int
    window_s: float | None = None
    """Its completion window; None: it has none."""
    workload: str = WORKLOAD

    @property
    def due_s(self) -> float:
        """When its window closes."""
        return math.inf if self.window_s is None else self.at_s + self.window_s


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs in the order in which they come."""

    name: str
    arrivals: tuple[Arrival, ...]
    horizon_s: float
    """Its length: what a pool that is always there is paid for."""

    @property
    def items(self) -> int:
        """Of all jobs."""
        return sum(arrival.items for arrival in self.arrivals)


def steady(dice: random.Random) -> Trace:
    """A day in which a job comes every two minutes: work for 2.4 pods, due in two hours."""
    return _trace("steady", (_job(120 * n, 2.4 * 120, 2) for n in range(720)), DAY_S)


def bursty(dice: random.Random) -> Trace:
    """A day with ten bursts at random times, each of six jobs in three minutes: 40 to 120 min of work, due in 3 h."""
    jobs = []
    for _ in range(10):
        begin, work_s = dice.uniform(0, 21 * HOUR_S), dice.uniform(40, 120) * 60
        jobs += [_job(begin + 30 * n, work_s / 6, 3) for n in range(6)]
    return _trace("bursty", jobs, DAY_S)


def diurnal(dice: random.Random) -> Trace:
    """Two days with a job every five minutes: work for 0.1 pods in the night and 4 at noon, due in two hours."""
    jobs = []
    for n in range(576):
        load = 2.05 - 1.95 * math.cos(2 * math.pi * n / 288)
        jobs.append(_job(300 * n, 300 * load * dice.uniform(0.7, 1.3), 2))
    return _trace("diurnal", jobs, 2 * DAY_S)


def backfill(dice: random.Random) -> Trace:
    """72 jobs at once, together 20 hours of work, due in a day."""
    return _trace("backfill", (_job(60, 1000, 24) for _ in range(72)), DAY_S + HOUR_S)


def trickle(dice: random.Random) -> Trace:
    """Two days in which a minute of work comes every ten minutes or so, due in four hours."""
    at, jobs = 0.0, []
    while (at := at + dice.expovariate(1 / 600)) < 2 * DAY_S - 4 * HOUR_S:
        jobs.append(_job(at, dice.uniform(30, 90), 4))
    return _trace("trickle", jobs, 2 * DAY_S)


BUILT_IN: Mapping[str, Callable[[random.Random], Trace]] = {
    "steady": steady,
    "bursty": bursty,
    "diurnal": diurnal,
    "backfill": backfill,
    "trickle": trickle,
}


def load(path: Path) -> Trace:
    """Reads a file. Raises BadTrace, OSError."""
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".csv":
            return _read(path.stem, list(csv.DictReader(text.splitlines())), {})
        told = json.loads(text)
        if isinstance(told, list):
            return _read(path.stem, told, {})
        return _read(path.stem, told["arrivals"], told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadTrace(f"{path.name} is no trace: {error}") from error


def _read(name: str, rows: Iterable[Mapping[str, object]], told: Mapping[str, object]) -> Trace:
    arrivals = [_arrival(number, row) for number, row in enumerate(rows, start=1)]
    if not arrivals:
        raise BadTrace(f"{name} has no arrivals")
    ends = (a.at_s + (a.window_s or HOUR_S) for a in arrivals)
    return _trace(str(told.get("name", name)), arrivals, float(str(told.get("horizon_s") or max(ends))))


def _arrival(number: int, row: Mapping[str, object]) -> Arrival:
    window = row.get("window_s")
    arrival = Arrival(
        float(str(row["at_s"])),
        int(str(row["items"])),
        None if window in (None, "") else float(str(window)),
        str(row.get("workload") or WORKLOAD),
    )
    if arrival.at_s < 0 or arrival.items < 1 or (arrival.window_s or 1) <= 0:
        raise BadTrace(f"arrival {number}: at_s from 0, items from 1, window_s above 0")
    return arrival


def _job(at_s: float, work_s: float, window_h: float) -> Arrival:
    return Arrival(at_s, max(1, round(work_s * ITEMS_PER_S)), window_h * HOUR_S)


def _trace(name: str, arrivals: Iterable[Arrival], horizon_s: float) -> Trace:
    return Trace(name, tuple(sorted(arrivals, key=lambda arrival: arrival.at_s)), horizon_s)
