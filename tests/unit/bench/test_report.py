"""What a report says about its targets."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench import report

TEXT = {"what": "w", "against": "a", "unit": "ms", "precision": "p", "counts": "c"}


def line(name: str, *goals: report.Goal, **extra: float) -> report.Line:
    return report.line(name, [3.0, 1.0, 2.0], [4.0, 4.0, 4.0], goals=goals, extra=extra, **TEXT)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (report.at_least(0.5), True),
        (report.at_least(0.51), False),
        (report.at_most(0.5), True),
        (report.at_most(0.49), False),
        (report.at_least(2.0, report.PODIUM), True),
        (report.at_most(14, "p99 ms"), False),
        (report.at_most(15, "p99 ms"), True),
    ],
)
def test_a_goal_is_about_the_median(goal: report.Goal, met: bool) -> None:
    assert line("one", goal, **{"p99 ms": 15.0}).met is met


def test_what_is_not_a_number_meets_nothing() -> None:
    assert not report.at_least(0.0).met_by(math.nan)
    assert not report.at_most(1.0).met_by(math.nan)


def test_a_goal_about_a_figure_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        _ = line("one", report.at_least(1.0, "nothing")).met


def test_all_goals_of_a_line_have_to_be_met(tmp_path: Path) -> None:
    lines = [line("one", report.at_least(0.4), report.at_most(1, report.PODIUM)), line("two")]
    found = json.loads(report.write(tmp_path, lines, 1.0, quick=True).read_text())["lines"]
    assert [(row["target"], row["met"]) for row in found] == [(">= 0.4; podium <= 1", False), (None, None)]


def test_the_summary_names_what_was_missed() -> None:
    lines = [line("one", report.at_least(0.4), report.at_most(1, report.PODIUM)), line("two")]
    assert report.summary(lines) == "1 of 2 targets met:\n  missed: one podium <= 1: 2"


def test_the_table_says_of_each_goal_whether_it_was_met() -> None:
    text = io.StringIO()
    lines = [line("one", report.at_least(0.4), report.at_most(1, report.PODIUM))]
    report.show(lines, Console(file=text, width=report.WIDTH))
    assert "yes (0.5)" in text.getvalue() and "NO (2)" in text.getvalue()
