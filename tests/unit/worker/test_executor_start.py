"""What an executor makes of its environment before any library of models can read it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_START = """
import os, runpy, sys
sys.argv = ["executor", "--help"]
try:
    runpy.run_module("podium_worker.executor", run_name="__main__", alter_sys=True)
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.mark.parametrize(("given", "policy"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_for_others_sleep_unless_they_are_told_to_spin(given: str | None, policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", _START], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{policy} False"
