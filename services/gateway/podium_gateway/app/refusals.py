"""From the domain's violations to the error that the client gets."""

from __future__ import annotations

from podium_gateway.domain import requests, violations
from podium_runtime import errors


def raise_if_any(bad: violations.Violations) -> None:
    """Raises errors.InvalidArgument with all that was found, if anything was."""
    if bad.found:
        raise errors.InvalidArgument([errors.Violation(v.field, v.description) for v in bad.found])


def one(path: str, description: str) -> errors.InvalidArgument:
    """The error for one bad field."""
    return errors.InvalidArgument([errors.Violation(path, description)])


def job_id(text: str) -> str:
    """The canonical job id. Raises errors.InvalidArgument."""
    bad = violations.Violations()
    canonical = requests.check_uuid("job_id", text, bad)
    raise_if_any(bad)
    return canonical
