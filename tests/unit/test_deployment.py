"""compose.yaml and the Dockerfile, as far as they can be checked without Docker."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_every_build_target_exists() -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE))
    targets = {s["build"]["target"] for s in COMPOSE["services"].values() if "build" in s}
    assert targets == {"gateway", "scheduler", "worker"}
    assert targets <= stages


def test_what_the_images_copy_exists_and_is_let_through() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in copied:
        assert (ROOT / path).exists()
        assert path.split("/")[0] in let_through


def test_dependencies_and_ports_are_consistent() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert needed in services
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is published beyond this machine by default"


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for use in re.findall(r"\$\{(PODIUM_\w*(?:TOKEN|PASSWORD))([^}]*)\}", text):
        assert use[1].startswith(":?"), use


def test_make_env_writes_every_variable_once(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([ROOT / "tools" / "write_env"], cwd=tmp_path, check=True, capture_output=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    written = dict(line.split("=", 1) for line in lines)
    required = set(re.findall(r"\$\{(PODIUM_\w+):\?", (ROOT / "compose.yaml").read_text()))
    assert set(written) == required
    assert len(set(written.values())) == len(written)


@pytest.mark.parametrize("service", ["gateway", "scheduler"])
def test_torch_stays_in_the_worker(service: str) -> None:
    stage = DOCKERFILE.split(f"FROM build AS build-{service}\n")[1].split("FROM ")[0]
    assert "torch" not in stage.lower()
