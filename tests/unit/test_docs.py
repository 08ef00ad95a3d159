"""docs/OPERATIONS.md names every setting and every metric that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podium_gateway.settings import GatewaySettings
from podium_runtime.settings import ServiceSettings
from podium_scheduler.settings import SchedulerSettings
from podium_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
METRIC = re.compile(r"\b(Counter|Gauge|Histogram)\(\s*\"(podium_\w+)\"")


@pytest.mark.parametrize("kind", [ServiceSettings, GatewaySettings, SchedulerSettings, WorkerSettings])
def test_every_setting_is_explained(kind: type[ServiceSettings]) -> None:
    variables = {f"PODIUM_{name.upper()}" for name in kind.model_fields}
    assert {v for v in variables if f"`{v}`" not in PAGE} == set()


def test_every_metric_is_explained() -> None:
    sources = [*ROOT.glob("services/*/podium_*/**/*.py"), *ROOT.glob("libs/runtime/podium_runtime/*.py")]
    found = {match for path in sources for match in METRIC.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 20
    names = {name if kind != "Counter" or name.endswith("_total") else f"{name}_total" for kind, name in found}
    assert {name for name in names if f"`{name}" not in PAGE} == set()
