"""Identity as a dependency."""

from __future__ import annotations

import secrets
import uuid
from typing import Protocol


class Ids(Protocol):
    """Makes identifiers."""

    def uuid4(self) -> uuid.UUID:
        """A fresh UUID."""

    def token(self) -> bytes:
        """16 fresh unguessable bytes."""


class SystemIds:
    """Random identifiers."""

    def uuid4(self) -> uuid.UUID:
        return uuid.uuid4()

    def token(self) -> bytes:
        return secrets.token_bytes(16)


class SequentialIds:
    """1, 2, 3 ... for tests."""

    def __init__(self) -> None:
        self._last = 0

    def uuid4(self) -> uuid.UUID:
        self._last += 1
        return uuid.UUID(int=self._last)

    def token(self) -> bytes:
        self._last += 1
        return self._last.to_bytes(16, "big")
