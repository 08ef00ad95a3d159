"""How the command ends: one line that a person can act on, and an exit code that a script can.

| code | meaning |
|---|---|
| 0 | done |
| 1 | done, but some items failed, or the job was cancelled or expired |
| 2 | bad usage, input or configuration |
| 3 | the service cannot be reached, is overloaded or does not answer in time |
| 4 | no such thing |
| 5 | no token, or one that is not accepted |
| 6 | not possible in this state (results released, job completed, request id used) |
| 70 | the service failed or broke the contract |
| 130 | interrupted |
"""

from __future__ import annotations

import sys

import podium_client

OK = 0
ITEMS_FAILED = 1
BAD_INPUT = 2
UNAVAILABLE = 3
NOT_FOUND = 4
NOT_AUTHORISED = 5
WRONG_STATE = 6
SERVICE_FAILED = 70
INTERRUPTED = 130

_BY_ERROR: tuple[tuple[type[podium_client.PodiumError], int], ...] = (
    (podium_client.ConfigurationError, BAD_INPUT),
    (podium_client.InvalidInput, BAD_INPUT),
    (podium_client.Unavailable, UNAVAILABLE),
    (podium_client.Overloaded, UNAVAILABLE),
    (podium_client.DeadlineExceeded, UNAVAILABLE),
    (podium_client.NotFound, NOT_FOUND),
    (podium_client.Unauthenticated, NOT_AUTHORISED),
    (podium_client.PermissionDenied, NOT_AUTHORISED),
    (podium_client.ResultsReleased, WRONG_STATE),
    (podium_client.FailedPrecondition, WRONG_STATE),
    (podium_client.RequestIdConflict, WRONG_STATE),
    (podium_client.NotImplementedByService, WRONG_STATE),
    (podium_client.JobCancelled, ITEMS_FAILED),
    (podium_client.JobExpired, ITEMS_FAILED),
    (podium_client.ItemsFailed, ITEMS_FAILED),
)


class BadInput(Exception):
    """The command line or an input file is wrong; the message says where."""


def code_for(error: podium_client.PodiumError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), SERVICE_FAILED)


def describe(error: podium_client.PodiumError) -> str:
    """One line, with what to do about it where we know."""
    text = " ".join(error.message.split())
    if isinstance(error, podium_client.InvalidInput) and error.violations:
        first = error.violations[0]
        more = f" (and {len(error.violations) - 1:,} more)" if len(error.violations) > 1 else ""
        text = f"{first.field}: {first.description}{more}"
    elif isinstance(error, podium_client.Unavailable) and error.reason == "UNAVAILABLE":
        text += "; is it running? `podium up` starts one on this machine"
    elif isinstance(error, podium_client.Unauthenticated):
        text += "; set PODIUM_TOKEN (`podium apps token NAME` issues one)"
    elif isinstance(error, podium_client.NotImplementedByService):
        text = f"the service does not do this yet: {text}"
    elif isinstance(error, podium_client.Overloaded) and error.retry_after_s is not None:
        text += f"; try again in {error.retry_after_s:.0f} s"
    return text


def say_error(text: str) -> None:
    """Write an error line."""
    sys.stderr.write(f"error: {text}\n")
