"""The processes that decode images, as the front sees them.

Promises: an image is decoded by one process at a time, and a process decodes one image at a time; each has a few more
images at hand, so that it does not wait for the front in between. Whoever asks first is served first, the urgent before
the others, which keep a share of the decoders' time while they wait. When `decode` has ended, however it ended, no
process writes at its offset any more: a call that is cancelled while a process has its image ends only with the answer.
A process that dies of an image is replaced and the image gets one more; one that takes too long is killed. A process is
started when it is first needed and ended when it has had nothing to do for a while, so that a worker of texts has none.
No decoder outlives the front.

Clock: injected for pauses and idleness; the event loop's for what a process may take. Failure: processes that cannot be
started, or die before they listen, are no image's fault: Unavailable.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence

from podium_runtime import clock, logs
from podium_worker.adapters import arena, decoder_process
from podium_worker.domain import backoff, pictures, problems, shares

log = logs.get_logger(__name__)

Limits = decoder_process.Limits

_STARTS = 3
# An image that is decoded and two that wait at the process: an answer takes longer to be heard in a busy front than a
# small image to be decoded.
_AT_HAND = 3
_MOST_DEATHS = 2
# Of each decoder: what calls may have of it before batches get their share. Some images of a call take less.
_LEAD_S = 0.5


class Unavailable(Exception):
    """No decoder can be had."""


class DecoderPool:
    """At most `count` decoders."""

    def __init__(
        self, count: int, memory: arena.Arena, limits: Limits, time: clock.Clock, *, call_share: float = 0.5
    ) -> None:
        """`call_share`: of the decoders' time, what is urgent may take from the rest while that waits."""
        self._limits = limits
        self._clock = time
        # The one that was busy last comes first; the others grow idle and end.
        self._decoders = [decoder_process.Process(memory, limits, self) for _ in range(count)]
        self._waiting: dict[bool, deque[decoder_process.Request]] = {urgent: deque() for urgent in (True, False)}
        self._lead = shares.Lead(call_share, _LEAD_S * count)
        self._starting: dict[decoder_process.Process, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def count(self) -> int:
        """Images that can be decoded at the same time."""
        return len(self._decoders)

    @property
    def process_ids(self) -> list[int]:
        """Of the decoders that are alive."""
        return [decoder.pid for decoder in self._decoders if decoder.pid is not None]

    async def run(self) -> None:
        """Ends idle decoders until cancelled; then all of them, and what they were decoding is Unavailable."""
        try:
            while True:
                await self._clock.sleep(self._limits.idle_s / 2)
                idle_since = self._clock.monotonic() - self._limits.idle_s
                for decoder in self._decoders:
                    if not decoder.taken and decoder.used_at <= idle_since:
                        await decoder.end()
                # Somebody may have asked one of them for something while it ended.
                self._hand_out()
        finally:
            await self._close()

    async def decode(
        self, data: bytes, picture: pictures.Picture, *, max_pixels: int, offset: int, urgent: bool = False
    ) -> float:
        """Puts the picture of an image file at `offset` of the arena; returns the seconds that it took.

        `urgent`: before all that are not, but for those that a process has at hand and for their share.

        Raises problems.ItemProblem (UNDECODABLE, TOO_LARGE, POISON), or Unavailable.
        """
        if self._closed:
            raise _ended()
        header = decoder_process.header(picture, max_pixels, offset)
        request = decoder_process.Request(data, header, asyncio.get_running_loop().create_future(), urgent=urgent)
        self._waiting[urgent].append(request)
        self._hand_out()
        try:
            return await asyncio.shield(request.answer)
        except asyncio.CancelledError:
            await self._withdraw(request)
            raise

    async def _withdraw(self, request: decoder_process.Request) -> None:
        """Takes an image back, or waits until no process can be at it any more."""
        waiting = self._waiting[request.urgent]
        if request in waiting:
            waiting.remove(request)
            request.answer.cancel()
        while not request.answer.done():
            # Whoever cancels once more has to wait as well.
            await _settled(request.answer)
        if not request.answer.cancelled():
            # Nobody wants to know.
            request.answer.exception()

    # --- what processes tell

    def took(self, request: decoder_process.Request, seconds: float) -> None:
        """See decoder_process.Pool."""
        if not request.urgent:
            self._lead.repay(seconds)
        elif self._waiting[False]:
            self._lead.take(seconds)

    def answered(self, process: decoder_process.Process) -> None:
        """See decoder_process.Pool."""
        process.used_at = self._clock.monotonic()
        self._hand_out()

    def ended(
        self,
        process: decoder_process.Process,
        culprit: decoder_process.Request | None,
        untouched: Sequence[decoder_process.Request],
    ) -> None:
        """See decoder_process.Pool."""
        for request in reversed(untouched):
            self._waiting[request.urgent].appendleft(request)
        if culprit is not None:
            culprit.deaths += 1
            log.warning("decoder_died", bytes=len(culprit.data), deaths=culprit.deaths)
            if culprit.deaths >= _MOST_DEATHS:
                message = "The image has killed two processes that decoded it."
                culprit.fail(problems.ItemProblem(problems.Reason.POISON, message))
            else:
                culprit.sent = False
                self._waiting[culprit.urgent].appendleft(culprit)
        if self._closed:
            self._refuse(_ended())
        else:
            self._hand_out()

    # --- inside

    def _next_lane(self) -> deque[decoder_process.Request]:
        """Where the next image is taken from; empty when none waits."""
        urgent, usual = self._waiting[True], self._waiting[False]
        return urgent if urgent and (not usual or self._lead.allows) else usual

    def _hand_out(self) -> None:
        while (waiting := self._next_lane()) and self._decoders:
            # The emptiest of them, and of those the one that was busy last.
            decoder = min(self._decoders, key=lambda one: (len(one.taken), -one.used_at))
            if len(decoder.taken) >= _AT_HAND:
                return
            decoder.take(waiting.popleft())
            if not decoder.listens and decoder not in self._starting:
                task = asyncio.create_task(self._start(decoder), name="start of a decoder")
                self._starting[decoder] = task

    async def _start(self, decoder: decoder_process.Process) -> None:
        problem: Exception = Unavailable(f"{_STARTS} decoder processes in a row could not be started.")
        try:
            for failures in range(1, _STARTS + 1):
                try:
                    await decoder.start()
                except (OSError, decoder_process.Died) as error:
                    log.error("decoder_start_failed", error=str(error))
                    await self._clock.sleep(backoff.delay_s(failures, random.random()))
                else:
                    return
        except Exception as error:
            log.exception("decoder_start_failed_unexpectedly")
            problem = Unavailable(f"A decoder process could not be started: {type(error).__name__}.")
        finally:
            del self._starting[decoder]
        while decoder.taken:
            decoder.taken.popleft().fail(problem)

    async def _close(self) -> None:
        self._closed = True
        starting = list(self._starting.values())
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        for decoder in self._decoders:
            decoder.kill()
        for decoder in self._decoders:
            taken = list(decoder.taken)
            decoder.taken.clear()
            await decoder.end()
            self._waiting[False].extend(taken)
        self._refuse(_ended())

    def _refuse(self, problem: Unavailable) -> None:
        while waiting := self._next_lane():
            waiting.popleft().fail(problem)


def _ended() -> Unavailable:
    return Unavailable("The decoders are being ended.")


async def _settled(answer: asyncio.Future[float]) -> None:
    """Until there is an answer, or this wait is cancelled, which changes nothing."""
    try:
        await asyncio.wait([answer])
    except asyncio.CancelledError:
        return
