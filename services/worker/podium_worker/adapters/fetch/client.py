"""Single requests, to addresses that may be connected to.

Promises: no packet goes to an address that the rules refuse, whatever the URL looks like and whatever a name server
says from one moment to the next. Each connection is judged in the instant before it is made, by the very address that
is handed to the kernel; the resolver only leaves out what would be refused there. A connection that is kept for later
requests serves the name for which it was judged, under the same rules: other rules need another Client. Nothing of the
process's surroundings is used (proxies, netrc, cookies), and nothing is decompressed. Each phase of an answer is
bounded in time and space; the sum is the caller's.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import importlib.metadata
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import yarl

from podium_runtime import clock
from podium_worker.adapters.fetch import failures, limits, resolver
from podium_worker.domain import addresses, urls

HasRoom = Callable[[int], Awaitable[bool]]
"""Whether a body may come to so many bytes. It may have to be waited for, and the server with it."""
_KEEPALIVE_S = 15.0
_KEPT_HOSTS = 16
_HEADERS = {
    "User-Agent": f"podium-worker/{importlib.metadata.version('podium-worker')}",
    # So that a server with a choice does not send what cannot be decoded here.
    "Accept": "image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff, */*;q=0.5",
    # A few bytes on the wire can be gigabytes when unpacked.
    "Accept-Encoding": "identity",
}


@dataclass(slots=True)
class _Connecting:
    """For whom a connection is made, and what became of it."""

    host: str
    refused: bool = False


# aiohttp's socket factory is told an address alone. Tasks that it starts to race several inherit this.
_connecting: contextvars.ContextVar[_Connecting | None] = contextvars.ContextVar("connecting", default=None)


class Client:
    """GET requests under one set of rules. Made inside the event loop that it is used in."""

    def __init__(
        self,
        bounds: limits.FetchLimits,
        rules: addresses.Rules,
        lookup: resolver.Lookup,
        time: clock.Clock,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bounds = bounds
        self._rules = rules
        self._kept = _KeptHosts(time)
        self._judge = resolver.JudgingResolver(lookup, rules)
        self._tls = tls
        self._keeping = self._session(keep=True)
        self._closing = self._session(keep=False)

    async def get(self, target: urls.Target) -> aiohttp.ClientResponse:
        """The answer, up to its header; `close` it in any case. Raises Failed."""
        session = self._keeping if self._kept.keep(target.authority) else self._closing
        connecting = _Connecting(target.host)
        _connecting.set(connecting)
        try:
            async with asyncio.timeout(self._bounds.connect_s + self._bounds.read_s):
                return await session.get(yarl.URL(target.text, encoded=True), allow_redirects=False)
        except resolver.NoAllowedAddress:
            raise _refused() from None
        except aiohttp.ServerTimeoutError:
            raise failures.Failed(
                f"could not be connected to within {self._bounds.connect_s:g} s", retryable=True
            ) from None
        except TimeoutError:
            raise self._too_slow() from None
        except (aiohttp.ClientError, ValueError) as error:
            if connecting.refused:
                raise _refused() from None
            raise _translated(error) from error

    async def read(self, answer: aiohttp.ClientResponse, has_room: HasRoom) -> bytes | None:
        """The body, or None if there is no room for it, of which no more than one piece is read. Raises Failed."""
        body = bytearray()
        try:
            while True:
                async with asyncio.timeout(self._bounds.read_s):
                    piece = await answer.content.readany()
                if not piece:
                    return bytes(body)
                if not await has_room(len(body) + len(piece)):
                    return None
                body += piece
        except TimeoutError:
            raise self._too_slow() from None
        except aiohttp.ClientError as error:
            raise failures.Failed("broke off in the middle of its answer", retryable=True) from error

    async def close(self) -> None:
        """Closes every connection."""
        await self._keeping.close()
        await self._closing.close()

    def _session(self, *, keep: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=self._judge,
            socket_factory=self._socket,
            use_dns_cache=self._bounds.dns_ttl_s > 0,
            ttl_dns_cache=max(1, round(self._bounds.dns_ttl_s)),
            force_close=not keep,
            keepalive_timeout=_KEEPALIVE_S if keep else None,
            # Turns are counted before.
            limit=0,
            ssl=self._tls or True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._bounds.connect_s),
            auto_decompress=False,
            trust_env=False,
        )

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for aiohttp to connect to the address in `info`, and to no other."""
        family, kind, protocol, _, place = info
        connecting = _connecting.get()
        host = connecting.host if connecting else ""
        if addresses.refusal(ipaddress.ip_address(place[0]), host, place[1], self._rules):
            if connecting:
                connecting.refused = True
            # An OSError, as anything else is lost where several addresses race.
            raise PermissionError(errno.EACCES, "not an address to connect to")
        return socket.socket(family, kind, protocol)

    def _too_slow(self) -> failures.Failed:
        return failures.Failed(f"sent nothing for {self._bounds.read_s:g} s", retryable=True)


class _KeptHosts:
    """Which servers' connections are kept: of few at a time, so that thousands of names, be they one server's, do not
    use up the process's sockets with connections that nobody needs again."""

    def __init__(self, time: clock.Clock) -> None:
        self._time = time
        self._until: dict[str, float] = {}

    def keep(self, host: str) -> bool:
        """Whether a connection to `host` may stay open for a while after this request."""
        now = self._time.monotonic()
        if host not in self._until and len(self._until) >= _KEPT_HOSTS:
            self._until = {other: until for other, until in self._until.items() if until > now}
            if len(self._until) >= _KEPT_HOSTS:
                return False
        self._until[host] = now + _KEEPALIVE_S
        return True


def _refused() -> failures.Failed:
    """Without the address: a client is not to learn how the inside of a network is laid out."""
    return failures.not_allowed("leads to an address that is not allowed")


def _translated(error: Exception) -> failures.Failed:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return failures.Failed("has a TLS certificate that cannot be verified")
        case aiohttp.ClientSSLError():
            return failures.Failed("could not agree on TLS")
        case aiohttp.ClientConnectorDNSError() if _is_unknown_name(error.os_error):
            return failures.Failed("has a host that cannot be found")
        case aiohttp.ClientConnectorDNSError():
            return failures.Failed("has a host that cannot be looked up now", retryable=True)
        case aiohttp.ClientConnectorError():
            return failures.Failed("could not be connected to", retryable=True)
        case aiohttp.ClientConnectionError():
            return failures.Failed("broke off before it answered", retryable=True)
        case aiohttp.InvalidURL() | ValueError():
            return failures.not_allowed("is malformed")
        case _:
            return failures.Failed("did not answer in HTTP, or with too long a header")


def _is_unknown_name(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
