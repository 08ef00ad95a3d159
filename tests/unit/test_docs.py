"""docs/OPERATIONS.md names every setting and every metric that there is, docs/AUTOSCALING.md none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podium_gateway.settings import GatewaySettings
from podium_runtime.settings import ServiceSettings
from podium_scheduler.adapters import pods_file
from podium_scheduler.settings import SchedulerSettings
from podium_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
AUTOSCALING = (ROOT / "docs" / "AUTOSCALING.md").read_text(encoding="utf-8")
METRIC = re.compile(r"\b(Counter|Gauge|Histogram)\(\s*\"(podium_\w+)\"")


@pytest.mark.parametrize("kind", [ServiceSettings, GatewaySettings, SchedulerSettings, WorkerSettings])
def test_every_setting_is_explained(kind: type[ServiceSettings]) -> None:
    variables = {f"PODIUM_{name.upper()}" for name in kind.model_fields}
    assert {v for v in variables if f"`{v}`" not in PAGE} == set()


def test_every_field_of_the_pods_file_is_explained() -> None:
    assert {name for name in pods_file.Plan.model_fields if f"`{name}" not in PAGE} == set()


def test_what_the_autoscalers_page_calls_a_setting_can_be_set_and_has_that_default() -> None:
    kinds = (pods_file.Plan, pods_file.Limits, pods_file.Wishes, pods_file.Offer)
    fields = {name: field.default for kind in kinds for name, field in kind.model_fields.items()}
    table = AUTOSCALING.partition("| what | rule | setting (default) |")[2].partition("\n\n")[0]
    settings = re.findall(r"`(\w+)`(?: \(([\d.]+)\))?", "".join(row.split("|")[3] for row in table.splitlines()[1:]))
    assert len(settings) > 15
    assert {name for name, _ in settings} - fields.keys() == {"budget_usd"}, "which jobs bring"
    assert {name: float(said) for name, said in settings if said} == {
        name: float(fields[name]) for name, said in settings if said
    }


def test_every_metric_is_explained() -> None:
    sources = [*ROOT.glob("services/*/podium_*/**/*.py"), *ROOT.glob("libs/runtime/podium_runtime/*.py")]
    found = {match for path in sources for match in METRIC.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 20
    names = {name if kind != "Counter" or name.endswith("_total") else f"{name}_total" for kind, name in found}
    assert {name for name in names if f"`{name}" not in PAGE} == set()
