"""Answers to requests that are not `http.Session`'s own: over Docker's socket, or by Kubernetes' client.

Promises and failures are those of `http`: Unreachable was never sent, Ambiguous may have been obeyed, and nothing of
`hide` is in either. Clock: the loop's, for the bound that comes with the request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable, Iterator

import aiohttp

from podium_scheduler.adapters.providers import http
from podium_scheduler.app import providers


async def answered(
    request: Awaitable[aiohttp.ClientResponse], service: str, call: str, *, hide: Iterable[str] = ()
) -> http.Answer:
    """Sends `request`, and reads its answer to the end. `call` names it to operators. Raises Unreachable, Ambiguous."""
    try:
        async with await request as response:
            raw = await http._read(response)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise providers.Unreachable(f"{service} cannot be reached ({type(error).__name__})") from None
    except TimeoutError:
        raise providers.Ambiguous(f"{call} of {service} had no answer in time") from None
    except aiohttp.ClientError as error:
        raise providers.Ambiguous(f"{call} of {service} broke off ({type(error).__name__})") from None
    body = http._parsed(raw)
    words = http._without(list(hide), http._words(body))
    return http.Answer(f"{call} of {service}", response.status, body, words, http._retry_after_s(response))


@contextlib.contextmanager
def made(name: str) -> Iterator[None]:
    """Around calls that follow the making of a pod: whatever fails then leaves it behind. Raises Ambiguous."""
    try:
        yield
    except providers.ProviderError as error:
        raise providers.Ambiguous(f"{name} was made, and then {error}") from None
