"""JSON over HTTP, as clouds speak it: a call has an answer, or an error that tells whether it may have had its effect.

Promises: a call that ends in Unreachable was never sent; one that ends in Ambiguous may have been obeyed. Nothing is
sent twice but what may be (a GET or a DELETE on a connection that had gone stale), and no redirect is followed: it
would carry the credential elsewhere. Neither the credential nor anything of `hide` is in an error, a log or a repr,
even if the other side repeats it. Nothing of the process's surroundings is used (proxies, netrc, cookies). Clock: the
loop's, for the bounds in time of each call. Failure: whatever is not understood is Ambiguous.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pydantic

from podium_runtime import logs
from podium_scheduler.app import providers

_MAX_BODY_BYTES = 32 << 20
_MAX_WORDS = 300
_SHORTEST_SECRET = 8
"""Characters. What is shorter is no secret, and would tear words apart."""
_USER_AGENT = f"podium-scheduler/{importlib.metadata.version('podium-scheduler')}"
_ERRORS: Mapping[int, type[providers.ProviderError]] = {
    401: providers.Unauthorized,
    402: providers.OutOfFunds,
    408: providers.Ambiguous,
    429: providers.Throttled,
}

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take, in seconds."""

    connect_s: float = 5.0
    """To find the address, connect and shake hands."""
    total_s: float = 30.0
    """From beginning to end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call was answered."""

    call: str
    """As operators know it: "POST /pods of RunPod"."""
    status: int
    body: Any = field(repr=False)
    """Parsed; None if it is no JSON. It can hold secrets: create calls are answered with what they said."""
    words: str
    """What it says of an error, without secrets; may be empty."""
    retry_after_s: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether the call was obeyed."""
        return 200 <= self.status < 300

    def failure(self, kind: type[providers.ProviderError] | None = None) -> providers.ProviderError:
        """The error that it stands for; without a `kind`, the one that HTTP gives its status."""
        said = f": {self.words}" if self.words else ""
        error = (kind or _kind(self.status))(f"{self.call} was answered {self.status}{said}")
        error.retry_after_s = self.retry_after_s
        return error

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Around the reading of its body. Raises Ambiguous for a shape that is not the documented one."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise providers.Ambiguous(f"{self.call} was answered {self.status} in a shape that is not known") from None


class Session:
    """Calls to one service under one credential. Made inside the event loop that it is used in."""

    def __init__(self, service: str, base_url: str, credential: pydantic.SecretStr, patience: Patience) -> None:
        self._service = service
        self._base_url = base_url.rstrip("/")
        self._credential = credential
        self._patience = patience
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=16),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=patience.total_s, connect=patience.connect_s),
            trust_env=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        hide: Iterable[str] = (),
    ) -> Answer:
        """One call, and its answer, good or bad. `path` is quoted already. Raises Unreachable, Ambiguous."""
        name = f"{method} {path} of {self._service}"
        secret = self._credential.get_secret_value()
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                params=query,
                json=body,
                headers={"Authorization": f"Bearer {secret}"},
                allow_redirects=False,
            ) as response:
                raw = await _read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise providers.Unreachable(f"{self._service} cannot be reached ({type(error).__name__})") from None
        except TimeoutError:
            raise providers.Ambiguous(f"{name} had no answer within {self._patience.total_s:g} s") from None
        except aiohttp.ClientError as error:
            # Its own text and fields can have the headers that were sent.
            raise providers.Ambiguous(f"{name} broke off ({type(error).__name__})") from None
        log.debug("provider_called", service=self._service, method=method, path=path, status=response.status)
        parsed = _parsed(raw)
        words = _without([secret, *hide], _words(parsed))
        return Answer(name, response.status, parsed, words, _retry_after_s(response))

    async def close(self) -> None:
        """Closes every connection."""
        await self._session.close()


def time_of(text: str | None) -> datetime | None:
    """An ISO 8601 time; None if there is none. Without an offset it is UTC. Raises ValueError."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > _MAX_BODY_BYTES:
            raise aiohttp.ClientPayloadError("the answer is too large")
    return bytes(raw)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _kind(status: int) -> type[providers.ProviderError]:
    if status in _ERRORS:
        return _ERRORS[status]
    return providers.Refused if 400 <= status < 500 else providers.Ambiguous


def _words(body: Any) -> str:
    """RFC 9457 has title, detail, and here errors; others have error or message."""
    if not isinstance(body, dict):
        return ""
    said = [body[key] for key in ("detail", "error", "message", "title") if isinstance(body.get(key), str)][:1]
    more = body.get("errors")
    return "; ".join([*said, *(one for one in (more if isinstance(more, list) else []) if isinstance(one, str))])


def _without(secrets: Sequence[str], words: str) -> str:
    lines = {line.strip() for secret in secrets for line in secret.splitlines()}
    pieces = lines | {json.dumps(line)[1:-1] for line in lines}
    # The longest first: one can be a part of another.
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _SHORTEST_SECRET:
            words = words.replace(piece, "***")
    return words if len(words) <= _MAX_WORDS else words[:_MAX_WORDS] + "..."


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    """Seconds, a date, or the end of the quota's window; times are read against the answer's own Date."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        now = email.utils.parsedate_to_datetime(response.headers["Date"])
        if value:
            then = email.utils.parsedate_to_datetime(value)
        elif response.status == 429:
            # DigitalOcean's, in seconds since 1970.
            then = datetime.fromtimestamp(int(response.headers["ratelimit-reset"]), UTC)
        else:
            return None
        return max(0.0, (then - now).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None
