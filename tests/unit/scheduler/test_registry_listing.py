"""`python -m podium_scheduler registry`: what an image build reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from google.protobuf import json_format

from podium.scheduler.v1 import scheduler_pb2
from podium_scheduler.adapters import registry_file

REGISTRY = """\
workloads:
  mine:
    description: Mine.
    modality: text
    dimension: 8
    limits: {max_text_bytes: 1KiB}
    model: {backend: hash, name: mine, revision: "1", pooling: none, normalized: false}
"""


def listing(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Of the services' settings there are none: the command must do without.
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")}
    command = [sys.executable, "-m", "podium_scheduler", "registry", *arguments]
    return subprocess.run(command, env={**bare, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_shipped_is_printed_whole() -> None:
    done = listing()
    assert (done.returncode, done.stderr) == (0, "")
    printed = json_format.Parse(done.stdout, scheduler_pb2.ListWorkloadsResponse())
    assert list(printed.workloads) == list(registry_file.load_default().workloads.values())


def test_another_file_by_argument_and_by_setting(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(REGISTRY)
    for done in (listing("--file", str(file)), listing(PODIUM_REGISTRY=str(file))):
        printed = json_format.Parse(done.stdout, scheduler_pb2.ListWorkloadsResponse())
        assert [w.name for w in printed.workloads] == ["mine"]


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    done = listing("--file", str(tmp_path / "none.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"
