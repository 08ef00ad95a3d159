"""What the processes wrote: tracebacks that nobody expected, and counts of the events that tell what happened."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_UNHANDLED = re.compile(r"Traceback \(most recent call last\)|never retrieved|was never awaited|^Fatal Python error")
_BAD_POSTGRES = re.compile(r"PANIC|deadlock detected|violates \w+ ?\w* constraint|could not serialize")

ALLOWED: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"never retrieved.*unexpected connection_lost\(\) call"),
        "asyncpg leaves the future of its TLS request behind when an attempt to connect is given up before Postgres"
        " answers; the attempt's own error was handled.",
    ),
    (
        re.compile(r"Task exception was never retrieved.*_terminate_graceful_close\(\).*TimeoutError"),
        "SQLAlchemy ends a connection whose caller was cancelled in a shielded task of its own, and nobody is left to"
        " hear that Postgres did not say goodbye within 2 s; the connection is terminated all the same.",
    ),
)
"""Tracebacks that may be, each with the reason why."""


def events(log: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The lines of a service's log, each with its structured event; a line of anybody else has none."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = {}
        yield line, event if isinstance(event, dict) else {}


def unexpected(log: Path) -> list[str]:
    """Tracebacks and unhandled errors of one service's life."""
    found = []
    for line, event in events(log):
        if ("exception" in event or _UNHANDLED.search(line)) and not _allowed(line):
            words = str(event.get("exception", line)).strip().splitlines()
            found.append(f"log {log}: {event.get('event', '')}: {words[-1] if words else ''}")
    return found


def unexpected_of_postgres(log: Path) -> list[str]:
    """What Postgres must never have to say about our statements."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [f"log {log}: {line}" for line in lines if _BAD_POSTGRES.search(line)]


def count(logs: Iterable[Path], weights: Mapping[str, str | None]) -> Counter[str]:
    """How often each event happened, or the sum of the field that is named for it."""
    total: Counter[str] = Counter()
    for log in logs:
        for _, event in events(log):
            name = str(event.get("event", ""))
            if name in weights:
                field = weights[name]
                total[name] += 1 if field is None else int(str(event.get(field, 0)))
    return total


def _allowed(line: str) -> bool:
    return any(pattern.search(line) for pattern, _ in ALLOWED)
