"""The bytes behind a URL that a client wrote, or one sentence about why not.

Promises: at most so many requests at a time, to all hosts and to each; at most so many bytes of bodies, counted as they
come in and until whoever wanted them is done; an end for every item within its own time. Every request of an item is
checked as the first was: each redirect, each attempt. What fails is told as problems.ItemProblem, in terms of the URL
that the client knows: no address, no redirect target, no signature. Waiting for a turn or for memory is the worker's
doing and not on the item's clock, which is the event loop's; pauses are on the injected one. Cancellation frees
everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import random
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp

from podium_runtime import clock, logs
from podium_worker.adapters.fetch import budget, client, failures, limits, memory, resolver, retries, s3
from podium_worker.domain import addresses, problems, urls

log = logs.get_logger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 203})

Observe = Callable[[str], None]
"""Told "fetched", "retried", or the lower-case name of a problems.Reason."""


@dataclass(frozen=True, slots=True)
class _Body:
    data: bytes
    room: memory.Room
    """What it takes of the memory, for as long as `data` is in it."""


class Fetcher:
    """Fetches by http, https and s3. Made inside the event loop that it is used in."""

    def __init__(
        self,
        bounds: limits.FetchLimits,
        rules: addresses.Rules,
        *,
        s3_access: s3.S3Access | None = None,
        lookup: resolver.Lookup | None = None,
        tls: ssl.SSLContext | None = None,
        time: clock.Clock | None = None,
        dice: Callable[[], float] = random.random,
        observe: Observe = lambda outcome: None,
    ) -> None:
        """`tls`: whom to trust; None: the authorities that the system knows."""
        access = s3_access or s3.S3Access()
        lookup = lookup or resolver.SystemLookup(bounds.concurrency)
        self._bounds = bounds
        self._time = time or clock.SystemClock()
        self._dice = dice
        self._observe = observe
        self._turns = budget.Turns(bounds.concurrency, bounds.per_host)
        self._memory = memory.Memory(bounds.memory_bytes)
        self._s3 = s3.S3(access)
        self._public = client.Client(bounds, rules, lookup, self._time, tls)
        # Apart: what is open to s3 URLs alone must not be reached by others over a connection that was kept.
        self._endpoint = client.Client(bounds, access.rules, lookup, self._time, tls) if access.endpoint else None

    @contextlib.asynccontextmanager
    async def body(self, url: str, max_bytes: int) -> AsyncIterator[bytes]:
        """What `url` leads to, not empty, `max_bytes` at most.

        Its memory is lent for as long as the block runs: whoever collects many before going on with any may wait for
        itself. Raises problems.ItemProblem before the block begins.
        """
        try:
            found = await self._fetched(url, min(max_bytes, self._bounds.memory_bytes))
        except failures.Failed as failure:
            self._observe(failure.reason.value.lower())
            raise problems.ItemProblem(failure.reason, f"{urls.shown(url)} {failure.what}.") from failure
        except Exception as error:
            # A server that has found a bug fails its own item, not the batch that this is part of.
            log.error("fetch_broke", url=urls.shown(url), exc_info=error)
            self._observe(problems.Reason.FETCH_FAILED.value.lower())
            message = f"{urls.shown(url)} could not be fetched."
            raise problems.ItemProblem(problems.Reason.FETCH_FAILED, message) from error
        self._observe("fetched")
        try:
            yield found.data
        finally:
            found.room.release()

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """As `body`, for whoever minds its own memory. Raises problems.ItemProblem."""
        async with self.body(url, max_bytes) as data:
            return data

    @property
    def idle(self) -> bool:
        """No request is under way or waits, and no body is in memory."""
        return self._turns.idle and self._memory.idle

    async def close(self) -> None:
        """Closes every connection. Callers cancel what is under way before, or it fails."""
        await self._public.close()
        if self._endpoint is not None:
            await self._endpoint.close()

    async def _fetched(self, url: str, max_bytes: int) -> _Body:
        try:
            source = urls.parse(url)
        except urls.NotAllowed as refusal:
            raise failures.not_allowed(refusal.why) from None
        try:
            async with asyncio.timeout(self._bounds.total_s) as timer:
                return await self._attempts(source, max_bytes, timer)
        except TimeoutError:
            raise failures.Failed(f"took longer than {self._bounds.total_s:g} s") from None

    async def _attempts(self, source: urls.Target | urls.S3Object, max_bytes: int, timer: asyncio.Timeout) -> _Body:
        for attempt in itertools.count(1):
            try:
                return await self._attempt(source, max_bytes, timer)
            except failures.Failed as failure:
                pause = self._pause_s(attempt, failure, timer)
                if pause is None:
                    raise
            self._observe("retried")
            await self._time.sleep(pause)
        raise AssertionError("unreachable")

    def _pause_s(self, attempt: int, failure: failures.Failed, timer: asyncio.Timeout) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if not failure.retryable or attempt >= self._bounds.attempts:
            return None
        pause = retries.pause_s(
            attempt,
            self._dice(),
            base_s=self._bounds.pause_s,
            cap_s=self._bounds.max_pause_s,
            retry_after_s=failure.retry_after_s,
        )
        end = timer.when()
        if pause is None or (end is not None and asyncio.get_running_loop().time() + pause >= end):
            return None
        return pause

    async def _attempt(self, source: urls.Target | urls.S3Object, max_bytes: int, timer: asyncio.Timeout) -> _Body:
        asked, target = await self._start(source)
        for hop in range(self._bounds.max_redirects + 1):
            try:
                found = await self._hop(asked, target, max_bytes, timer)
            except failures.Failed as failure:
                raise failure.behind_redirect() if hop else failure from failure.__cause__
            if isinstance(found, _Body):
                return found
            try:
                target = urls.redirected(target, found)
            except urls.NotAllowed as refusal:
                raise failures.not_allowed(refusal.why).behind_redirect() from None
            asked = self._public
        raise failures.Failed(f"redirects more than {self._bounds.max_redirects} times")

    async def _start(self, source: urls.Target | urls.S3Object) -> tuple[client.Client, urls.Target]:
        if isinstance(source, urls.Target):
            return self._public, source
        return self._endpoint or self._public, await self._s3.target(source)

    async def _hop(
        self, asked: client.Client, target: urls.Target, max_bytes: int, timer: asyncio.Timeout
    ) -> _Body | str:
        """One request: a body, or where it redirects to."""
        resume = _stopped(timer)
        async with self._turns.turn(target.authority):
            resume()
            answer = await asked.get(target)
            try:
                if answer.status in _REDIRECTS:
                    return _location(answer)
                _check(answer)
                return await self._read(asked, answer, max_bytes, timer)
            finally:
                # After a whole body its connection has gone on to others already; else it goes with the rest of it.
                answer.close()

    async def _read(
        self, asked: client.Client, answer: aiohttp.ClientResponse, max_bytes: int, timer: asyncio.Timeout
    ) -> _Body:
        declared = answer.content_length
        if declared is not None and declared > max_bytes:
            raise failures.too_large(max_bytes)
        room = self._memory.room(max_bytes if declared is None else declared)

        async def has_room(nbytes: int) -> bool:
            if nbytes > room.limit:
                return False
            if nbytes > room.units:
                resume = _stopped(timer)
                await room.grow(nbytes)
                resume()
            return True

        try:
            # Before the first piece is read: while there is no memory, nothing comes in.
            await has_room(min(1, room.limit))
            data = await asked.read(answer, has_room)
            if data is None:
                raise failures.too_large(max_bytes)
            if not data:
                raise failures.Failed("answered with an empty body")
        except BaseException:
            room.release()
            raise
        room.settle(len(data))
        return _Body(data, room)


def _stopped(timer: asyncio.Timeout) -> Callable[[], None]:
    """Stops an item's clock. Returns what lets it go on with the time that was left."""
    loop = asyncio.get_running_loop()
    end = timer.when()
    assert end is not None, "stopped twice"
    left = end - loop.time()
    timer.reschedule(None)
    return lambda: timer.reschedule(loop.time() + left)


def _location(answer: aiohttp.ClientResponse) -> str:
    location = answer.headers.get("Location")
    if not location:
        raise failures.Failed(f"answered {_status(answer)} without saying where to")
    return location


def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status not in _GOOD:
        raise failures.Failed(
            f"answered {_status(answer)}",
            retryable=answer.status in retries.RETRYABLE_STATUSES,
            retry_after_s=retries.retry_after_s(answer.headers.get("Retry-After"), answer.headers.get("Date")),
        )
    encodings = answer.headers.getall("Content-Encoding", [])
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        raise failures.Failed("answered with a compressed body, which was not asked for")


def _status(answer: aiohttp.ClientResponse) -> str:
    """In the words of the standard: the server's own could be anything."""
    try:
        return f"{answer.status} {http.HTTPStatus(answer.status).phrase}"
    except ValueError:
        return str(answer.status)
