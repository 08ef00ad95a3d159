"""What is wrong with a request, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_REPORTED = 100


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path, as in `texts.items[17].text`, and what is wrong with it, for people."""

    field: str
    description: str


@dataclass(slots=True)
class Violations:
    """Collects violations in order of discovery, up to MAX_REPORTED; a caller learns all of them in one
    answer."""

    found: list[Violation] = field(default_factory=list)

    def add(self, path: str, description: str) -> None:
        """Notes one violation; a no-op when full."""
        if not self.full:
            self.found.append(Violation(path, description))

    @property
    def full(self) -> bool:
        """Whether more would not be reported, so that looking for more is a waste."""
        return len(self.found) >= MAX_REPORTED
