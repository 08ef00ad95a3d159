"""W3C traceparent, carried from the client's call to the worker. No spans of our own: the ids join the logs."""

from __future__ import annotations

import contextvars
import re
import secrets
from collections.abc import Iterable

KEY = "traceparent"
# https://www.w3.org/TR/trace-context/#traceparent-header
_FORMAT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_current: contextvars.ContextVar[str] = contextvars.ContextVar("traceparent", default="")


def new_traceparent() -> str:
    """A fresh root."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def current() -> str:
    """The traceparent of the call being served, or ''."""
    return _current.get()


def trace_id() -> str:
    """The trace id of the call being served, 32 hex digits, or ''."""
    return _current.get()[3:35]


def adopt(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Takes the caller's traceparent as the current one, or makes one; returns it."""
    found = ""
    for key, value in metadata:
        if key == KEY and isinstance(value, str) and _FORMAT.fullmatch(value):
            found = value
    found = found or new_traceparent()
    _current.set(found)
    return found


def outgoing() -> tuple[tuple[str, str], ...]:
    """Metadata for a call made while serving one."""
    value = _current.get()
    return ((KEY, value),) if value else ()
