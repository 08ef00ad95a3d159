"""The prefix of its pods' names, by which a provider knows them for ours."""

from __future__ import annotations

import re

_PREFIX = re.compile(r"[a-z0-9][a-z0-9-]*-")
"""With an end: "podium-a" would take in "podium-ab-1"."""


def check(prefix: str) -> None:
    """Raises ValueError for a prefix of names that would make other people's pods the cluster's own."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("the prefix of pods' names is of a-z, 0-9 and -, and ends in -")
