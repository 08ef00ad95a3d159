"""Page tokens of lists that the gateway holds itself, ordered by name."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

_MARK = b"after:"


class BadPageToken(ValueError):
    """The text is no page token of ours."""


def page(names: Sequence[str], size: int, token: str) -> tuple[list[str], str]:
    """One page of the sorted names, and the token of the next page ('' after the last). Raises
    BadPageToken."""
    after = _read(token)
    rest = [name for name in names if name > after]
    shown = rest[:size]
    return shown, _write(shown[-1]) if len(rest) > size else ""


def _write(name: str) -> str:
    return base64.urlsafe_b64encode(_MARK + name.encode()).decode()


def _read(token: str) -> str:
    if not token:
        return ""
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        if not raw.startswith(_MARK):
            raise BadPageToken("is not a page token of this list")
        return raw[len(_MARK) :].decode()
    except (binascii.Error, ValueError) as error:
        raise BadPageToken("is not a page token of this list") from error
