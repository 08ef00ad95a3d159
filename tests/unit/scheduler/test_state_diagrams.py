"""The diagrams are current: the one in the module says what TRANSITIONS says, and the page shows the same one."""

from __future__ import annotations

import re
from pathlib import Path

from podium_scheduler.domain import batches

PAGE = Path(__file__).parents[3] / "docs" / "ARCHITECTURE.md"


def diagram(text: str) -> str:
    found = re.search(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_modules_diagram_has_every_transition_and_no_other() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (.+)$", diagram(batches.__doc__ or ""), re.MULTILINE)
    assert {(a, b) for a, b, _ in drawn} == {(a.value, b.value) for (a, _), b in batches.TRANSITIONS.items()}
    assert len(drawn) == len(batches.TRANSITIONS)


def test_the_architecture_page_shows_the_same_diagram() -> None:
    assert diagram(PAGE.read_text(encoding="utf-8")) == diagram(batches.__doc__ or "")
