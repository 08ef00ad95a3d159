"""Plants each bug in a copy of the tree and runs the test that must catch it. Exit status 1 when one slips through.

Every test passes first on a copy without any bug: a test that fails anyway catches nothing. The copy's own packages
come first on PYTHONPATH, also for the processes that tests start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.planted.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "libs/contracts", "libs/runtime", "libs/embedded", "libs/client", "libs/cli", "services/gateway",
    "services/scheduler", "services/worker",
)  # fmt: skip
LIMIT_S = 240.0
_LEFT_OUT = shutil.ignore_patterns(".venv", ".git", "node_modules", "__pycache__", ".*_cache", "*-out")
_PASSED, _FAILED = 0, 1


def _copy(into: Path) -> Path:
    tree = into / "tree"
    shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
    return tree


def _run(tree: Path, *tests: str) -> tuple[int, str]:
    """pytest's exit status and output; a run that takes too long has failed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), *(str(tree / p) for p in PACKAGES)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=120", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return _FAILED, "it did not end"
    return done.returncode, done.stdout[-4_000:] + done.stderr[-1_000:]


def plant(tree: Path, bug: Bug) -> None:
    """Changes the tree."""
    file = tree / bug.file
    text = file.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.file} has {text.count(bug.old)} places for {bug.name!r}")
    file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")


def _caught(bug: Bug) -> bool:
    with tempfile.TemporaryDirectory(prefix="podium-planted-") as name:
        tree = _copy(Path(name))
        plant(tree, bug)
        began = time.monotonic()
        status, output = _run(tree, bug.test)
        # Any other status means that nothing was tested: the tree does not even load, or there is no such test.
        caught = status == _FAILED
        print(f"{'caught' if caught else 'MISSED'}  {bug.name}  ({time.monotonic() - began:.0f} s)", flush=True)
        if not caught:
            print(output)
        return caught


def table(bugs: list[Bug]) -> str:
    """Markdown, as it stands in docs/RELIABILITY.md."""
    return "\n".join(["| bug | caught by |", "|---|---|", *(f"| {b.name} | `{b.test}` |" for b in bugs)])


def main() -> None:
    """Checks the tests, then the bugs."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("--only", default="", help="bugs whose name contains this")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    arguments = parser.parse_args()
    bugs = [b for b in BUGS if arguments.only in b.name]
    if not bugs:
        parser.error("no bug has such a name")
    if not arguments.table:
        with tempfile.TemporaryDirectory(prefix="podium-planted-") as name:
            status, output = _run(_copy(Path(name)), *sorted({b.test for b in bugs}))
        if status != _PASSED:
            raise SystemExit(f"{output}\nwithout any bug the tests do not pass")
        missed = [b for b in bugs if not _caught(b)]
        print(f"\n{len(bugs) - len(missed)} of {len(bugs)} caught\n")
        if missed:
            raise SystemExit(1)
    print(table(bugs))


if __name__ == "__main__":
    main()
