"""The errors that use cases raise. One table (`statuses.py`) turns them into gRPC statuses; nothing else does.

Standard library only, so that any layer may raise them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field of a request: its path (`texts.items[17].text`) and what is wrong with it, for people."""

    field: str
    description: str


class PodiumError(Exception):
    """An error a caller is told of: a sentence for people and a stable reason for programs."""

    default_reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})


class InvalidArgument(PodiumError):
    """One or more fields of the request are bad."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self, violations: Sequence[Violation], *, reason: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        shown = "; ".join(f"{v.field}: {v.description}" for v in violations[:3])
        more = f" (and {len(violations) - 3} more)" if len(violations) > 3 else ""
        super().__init__(shown + more, reason=reason, metadata=metadata)
        self.violations = tuple(violations)


class Unauthenticated(PodiumError):
    """No token, or one we do not know."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(PodiumError):
    """The token is good, but not for this."""

    default_reason = "PERMISSION_DENIED"


class NotFound(PodiumError):
    """There is no such thing, or it is another app's."""

    default_reason = "NOT_FOUND"


class AlreadyExists(PodiumError):
    """The name or request id was used for something else."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(PodiumError):
    """The thing is not in a state that allows this."""

    default_reason = "FAILED_PRECONDITION"


class OutOfRange(PodiumError):
    """A position is outside of what can be read."""

    default_reason = "OUT_OF_RANGE"


class DeadlineExceeded(PodiumError):
    """The call's time is up."""

    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(PodiumError):
    """The call is in the contract, but this server does not do it yet."""

    default_reason = "UNIMPLEMENTED"


class Internal(PodiumError):
    """Our fault."""


class _RetryLater(PodiumError):
    """An error that passes; `retry_after_s` says when to try again, in seconds."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s


class ResourceExhausted(_RetryLater):
    """A quota is full, or the system sheds load."""

    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(_RetryLater):
    """Something we depend on is away."""

    default_reason = "UNAVAILABLE"
