"""Reports of seeds, between processes and in the table."""

from __future__ import annotations

import json
from collections import Counter

from tests.faults.nemesis import campaign
from tests.faults.nemesis.runner import Report


def report(seed: int, **faults: int) -> Report:
    return Report(seed, 60.0, faults=Counter(faults), jobs=3, items=500)


def test_a_report_survives_the_way_between_processes() -> None:
    one = report(7, kill=2, hold=1)
    one.violations.append("an item was lost")
    told = json.loads(json.dumps(campaign.to_json([one])))
    assert Report.from_json(told["seeds"][0]) == one
    assert told["passed"] is False
    assert told["seeds"][0]["replay"] == "python -m tests.faults.nemesis --seed 7 --seconds 60"


def test_faults_are_summed_by_kind() -> None:
    reports = [report(1, kill=2), report(2, kill=1, hold=4)]
    assert campaign.to_json(reports)["faults"] == {"hold": 4, "kill": 3}
    assert campaign.to_json(reports)["faults_total"] == 7
    assert campaign.table(reports).splitlines() == ["hold      4", "kill      3", "all       7", "2 of 2 seeds passed"]
