"""Names to addresses, of which only those that may be connected to are passed on.

Look-ups run in threads of their own, as many at a time as fit, and nobody waits for a thread when the worker ends: a
name server that keeps silent takes half a minute of a thread, which would block all that shares a pool with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import abc

from podium_worker.adapters.fetch import budget
from podium_worker.domain import addresses

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name, each as text. Raises OSError."""

_MAX_ADDRESSES = 8
"""Of one name: aiohttp tries them all, and a hostile zone can hold thousands."""


class NoAllowedAddress(Exception):
    """A name leads only to addresses that are not connected to. `kind` is of the first one."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class SystemLookup:
    """getaddrinfo, at most `threads` at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = budget.Budget(threads)

    async def __call__(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        share = await self._threads.take(1)

        def done(found: Sequence[str], error: OSError | None) -> None:
            # Not before the thread is, even if nobody waits for the answer any more.
            share.release()
            if answer.done():
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def work() -> None:
            found: Sequence[str] = ()
            failure: OSError | None = None
            try:
                found = _getaddrinfo(host)
            except OSError as error:
                failure = error
            except Exception as error:
                # Whatever it is, somebody waits.
                failure = OSError(str(error))
            # The loop may be gone: then so is everybody who waited.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done, found, failure)

        threading.Thread(target=work, name="podium-lookup", daemon=True).start()
        return await answer


def _getaddrinfo(host: str) -> Sequence[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(entry[4][0]) for entry in found]


class JudgingResolver(abc.AbstractResolver):
    """For aiohttp's connector."""

    def __init__(self, lookup: Lookup, rules: addresses.Rules) -> None:
        self._lookup = lookup
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        """Those addresses of `host` that may be connected to. Raises OSError, NoAllowedAddress."""
        found = [ipaddress.ip_address(text) for text in dict.fromkeys(await self._lookup(host))]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        kinds = [addresses.refusal(address, host, port, self._rules) for address in found]
        allowed = [address for address, kind in zip(found, kinds, strict=True) if not kind]
        if not allowed:
            raise NoAllowedAddress(kinds[0])
        return [_result(host, port, address) for address in allowed[:_MAX_ADDRESSES]]

    async def close(self) -> None:
        """Nothing to close: look-ups under way end by themselves."""


def _result(host: str, port: int, address: addresses.Address) -> abc.ResolveResult:
    return abc.ResolveResult(
        hostname=host,
        host=str(address),
        port=port,
        family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
