"""What a run found: one line for each comparison, as JSON and as a table for people."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table

from tests.bench import rounds

WIDTH = 132
"""Columns that the table needs."""
SHARE = "share"
PODIUM = "podium"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a line should reach. `of`: `share` or `podium`, whose medians count, or the name of an extra figure."""

    bound: float
    of: str = SHARE
    at_most: bool = False

    def met_by(self, value: float) -> bool:
        """Whether this is good enough; never what is not a number."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'' if self.of == SHARE else self.of + ' '}{'<=' if self.at_most else '>='} {self.bound:,g}"


def at_least(bound: float, of: str = SHARE) -> Goal:
    """The more, the better."""
    return Goal(bound, of)


def at_most(bound: float, of: str = SHARE) -> Goal:
    """The less, the better."""
    return Goal(bound, of, at_most=True)


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison. `share`: of each round Podium's figure over the other's, both in `unit`."""

    name: str
    what: str
    against: str
    unit: str
    podium: rounds.Spread
    other: rounds.Spread
    share: rounds.Spread
    precision: str
    counts: str
    goals: tuple[Goal, ...] = ()
    extra: dict[str, float] = field(default_factory=dict)
    waited: float | None = None
    """Share of the time, 0 to 1, in which the device had nothing to compute."""
    stages: dict[str, float] = field(default_factory=dict)
    """Mean seconds of a batch in each stage of the worker."""

    @property
    def target(self) -> str | None:
        """All goals in words; None without any."""
        return "; ".join(map(str, self.goals)) or None

    @property
    def met(self) -> bool | None:
        """Whether all goals are; None without any."""
        return all(goal.met_by(self.figure(goal.of)) for goal in self.goals) if self.goals else None

    def figure(self, name: str) -> float:
        """What a goal is about. KeyError when there is no such figure."""
        medians = {SHARE: self.share.median, PODIUM: self.podium.median}
        return medians[name] if name in medians else self.extra[name]


def line(name: str, ours: list[float], theirs: list[float], **rest: object) -> Line:
    """A line from the figures of both sides, round by round."""
    spreads = rounds.spread(ours), rounds.spread(theirs), rounds.ratios(ours, theirs)
    return Line(name, podium=spreads[0], other=spreads[1], share=spreads[2], **rest)  # type: ignore[arg-type]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def machine() -> dict[str, object]:
    """Where the figures come from."""
    return {
        "cores": cores(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("grpcio", "numpy", "sentence-transformers", "torch")},
        "load_average": list(os.getloadavg()),
    }


def write(
    folder: Path, lines: list[Line], seconds: float, *, quick: bool, name: str = "report.json", **rest: object
) -> Path:
    """Writes a file with this name; `rest` goes beside the lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    found = {
        "machine": machine(),
        **rest,
        "quick": quick,
        "seconds": round(seconds, 1),
        "lines": [dataclasses.asdict(line) | {"target": line.target, "met": line.met} for line in lines],
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return path


def show(lines: list[Line], console: Console) -> None:
    """Prints the table, what each line is, and which goals were missed."""
    table = Table(title=f"Podium on {cores()} cores: medians of {len(lines[0].share.rounds)} alternating rounds")
    for heading in ("line", "Podium", "other", "unit", "share (low to high)", "target", "met"):
        justify: JustifyMethod = "left" if heading in ("line", "unit", "met") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for number, line in enumerate(lines, 1):
        share = f"{line.share.median:.3g} ({line.share.low:.3g} to {line.share.high:.3g})"
        # One goal a row, so that the table stays narrow.
        wanted = "\n".join(map(str, line.goals)), "\n".join(_verdict(line, goal) for goal in line.goals)
        figures = _figure(line.podium.median), _figure(line.other.median)
        table.add_row(f"{number} {line.name}", *figures, line.unit, share, *wanted)
    console.print(table)
    if any(line.stages for line in lines):
        console.print(_stages(lines))
    for number, line in enumerate(lines, 1):
        extra = "".join(f"; {name} {value:,.6g}" for name, value in line.extra.items())
        what = f"{number} {line.name}: {line.what}\n  against {line.against}\n  {line.precision}; {line.counts}{extra}"
        console.print(what, soft_wrap=True, highlight=False, markup=False)
    console.print(summary(lines), soft_wrap=True, highlight=False, markup=False)


def summary(lines: Sequence[Line]) -> str:
    """How many goals were met, and which were not."""
    goals = [(line, goal) for line in lines for goal in line.goals]
    missed = [(line, goal) for line, goal in goals if not goal.met_by(line.figure(goal.of))]
    rows = [f"{len(goals) - len(missed)} of {len(goals)} targets met{':' if missed else ''}"]
    rows += [f"  missed: {line.name} {goal}: {_figure(line.figure(goal.of))}" for line, goal in missed]
    return "\n".join(rows)


def _verdict(line: Line, goal: Goal) -> str:
    return ("yes" if goal.met_by(line.figure(goal.of)) else "NO") + f" ({_figure(line.figure(goal.of))})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _stages(lines: list[Line]) -> Table:
    """Where the worker's batches spent their time."""
    names = list(dict.fromkeys(name for line in lines for name in line.stages))
    table = Table(title="Milliseconds of a batch by stage, and the share of the time in which the device waited")
    for heading in ("line", *names, "waited"):
        table.add_column(heading, justify="left" if heading == "line" else "right", no_wrap=True)
    for number, line in enumerate(lines, 1):
        spent = [f"{line.stages[name] * 1e3:,.4g}" if name in line.stages else "" for name in names]
        table.add_row(f"{number} {line.name}", *spent, "" if line.waited is None else f"{line.waited:.1%}")
    return table


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [row.split(":", 1)[1].strip() for row in text.splitlines() if row.startswith("model name")]
    return names[0] if names else platform.processor()
