"""Checks of operators' requests, and the tokens of their pages."""

from __future__ import annotations

import base64
import json
import re
from uuid import UUID

from podium.operator.v1 import operator_pb2
from podium_runtime import errors

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
MAX_WEIGHT = 1_000
MAX_DESCRIPTION_BYTES = 128
MAX_WAITING_ITEMS = (1 << 63) - 1
_APP_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WORKLOAD = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Check:
    """Collects what is wrong with one request; `done` raises it all at once."""

    def __init__(self) -> None:
        self._violations: list[errors.Violation] = []

    def done(self) -> None:
        """Raises errors.InvalidArgument when anything is wrong."""
        if self._violations:
            raise errors.InvalidArgument(self._violations)

    def bad(self, field: str, description: str) -> None:
        """Notes a violation."""
        self._violations.append(errors.Violation(field, description))

    def app(self, app: operator_pb2.App, *, present: bool, least_weight: int) -> None:
        """The app of CreateApp (least_weight 0: the default) or UpdateApp (1)."""
        if not present:
            self.bad("app", "is required")
            return
        self.app_id("app.app_id", app.app_id)
        if not least_weight <= app.weight <= MAX_WEIGHT:
            self.bad("app.weight", f"must be {least_weight} to {MAX_WEIGHT:,}")
        if app.max_waiting_items > MAX_WAITING_ITEMS:
            self.bad("app.max_waiting_items", f"must be at most {MAX_WAITING_ITEMS:,}; 0 means no limit")

    def app_id(self, field: str, value: str) -> None:
        """The name of an app."""
        if _APP_ID.fullmatch(value) is None:
            self.bad(field, "must be 1 to 63 of a-z 0-9 - and begin with a letter or digit")

    def description(self, value: str) -> None:
        """Words for people."""
        if len(value.encode()) > MAX_DESCRIPTION_BYTES:
            self.bad("description", f"must be at most {MAX_DESCRIPTION_BYTES} bytes")
        elif not value.isprintable():
            self.bad("description", "must be one line of printable text")

    def workload(self, value: str) -> None:
        """A filter by workload; empty means all."""
        if value and _WORKLOAD.fullmatch(value) is None:
            self.bad("workload", "is no name of a workload")

    def uuid(self, field: str, value: str) -> UUID:
        """A UUID; when it is none, the violation is noted and the nil UUID stands in for it."""
        try:
            return UUID(value)
        except ValueError:
            self.bad(field, "must be a UUID")
            return UUID(int=0)

    def page_size(self, value: int) -> int:
        """Entries of a page; 0 means the default."""
        if value > MAX_PAGE:
            self.bad("page_size", f"must be at most {MAX_PAGE:,}")
        return value or DEFAULT_PAGE

    def page_token(self, token: str, *listing: str) -> list[str] | None:
        """The position that `page_token` wrote for the same listing (its name and filters); None for the start."""
        if not token:
            return None
        try:
            content = json.loads(base64.urlsafe_b64decode(token.encode()))
            if content[0] == list(listing) and all(isinstance(part, str) for part in content[1]):
                return list(content[1])
        except (ValueError, TypeError, LookupError):
            pass
        self.bad("page_token", "is no token of this listing; start again without one")
        return None


def page_token(position: list[str], *listing: str) -> str:
    """A token for the place after `position`. Opaque to callers, good for the same listing only."""
    return base64.urlsafe_b64encode(json.dumps([listing, position]).encode()).decode()
