"""The planted bugs do not rot: each still has its place in the tree, its test, and its line in docs/RELIABILITY.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.planted.__main__ import table
from tests.planted.bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted_and_its_test_is_there(bug: Bug) -> None:
    text = (ROOT / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.old) == 1
    assert bug.new != bug.old
    file, _, name = bug.test.partition("::")
    tests = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(" if name else r"^(async )?def test_|^Test", tests, re.MULTILINE)


def test_the_page_lists_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 10
    assert table(list(BUGS)) in (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
