"""Why one item of a batch has no vector."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Reason(enum.Enum):
    """Names of ItemErrorReason without the prefix, as far as an item can fail before it reaches a device."""

    TOO_LARGE = "TOO_LARGE"
    """More bytes or pixels than the workload allows."""
    URL_NOT_ALLOWED = "URL_NOT_ALLOWED"
    """The URL, or one that it redirects to, is malformed, or its scheme or address is not allowed."""
    FETCH_FAILED = "FETCH_FAILED"
    """The server cannot be reached, answers with an error, or is too slow."""
    UNDECODABLE = "UNDECODABLE"
    """Not an image of a supported format, or cut short."""
    POISON = "POISON"
    """It kills the process that decodes it."""
    UNKNOWN_TOKEN = "UNKNOWN_TOKEN"
    """A token id is none of the model's tokenizer."""


class ItemProblem(Exception):
    """One item fails alone; the message is one sentence for the client, without secrets and without line breaks."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """What became of one item. `index` counts within the batch."""

    index: int
    reason: Reason
    message: str
