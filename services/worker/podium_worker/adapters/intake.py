"""From an assigned batch of images to its pictures in the arena, where an executor finds them.

Promises: one call of `done` or `failed` for each batch that is not dropped first. An item that cannot be fetched or
decoded is one failure of the batch, in order; only what concerns the whole batch fails it. Batches that begin earlier
get memory first, and their items are asked for first. A region is given back when its batch is dropped, and not before
the last decoder has left it. What is urgent waits only for what is urgent. Nothing here waits for itself: a batch needs
no room but its own, which it has before its first item, and an item goes on to a decoder while it holds its file.

Its bounds are those of others: the fetcher's requests and bytes, the pool's processes, the arena, and the credits that
the worker gives for batches. There is none on items here, or a slow host would keep out the items of the others.

Clock: injected, for how long an intake took. Failure: what is unforeseen in one item is logged with its traceback and
fails that item; what is unforeseen in a batch fails the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from podium.common.v1 import item_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import clock, logs
from podium_worker.adapters import arena, decoder_pool, known, payloads
from podium_worker.app import ports
from podium_worker.domain import pictures, problems

log = logs.get_logger(__name__)

Done = Callable[[str, ports.Taken], None]
Failed = Callable[[str, str, str], None]
_Source = str | bytes | None
"""Where an image is: its URL, its file, or nowhere."""


class Fetcher(Protocol):
    """Gets files from where URLs point."""

    def body(self, url: str, max_bytes: int) -> AbstractAsyncContextManager[bytes]:
        """The file, while the context lasts: what is held at once is bounded.

        Raises problems.ItemProblem (URL_NOT_ALLOWED, FETCH_FAILED, TOO_LARGE).
        """


@dataclass(slots=True)
class _Batch:
    """A batch from its begin to its drop."""

    key: str
    body: bytes
    """The serialized Assign, until it is read."""
    picture: pictures.Picture
    max_pixels: int
    max_bytes: int
    done: Done
    failed: Failed
    started: float
    urgent: bool
    """Of an interactive call: it waits for no batch that is none."""
    offset: int | None = None
    """Of its region, once it has one."""
    nbytes: int = 0
    taken: bool = False
    """The region is held for whoever was called with `done`; until then, the intake's task gives it back."""
    dropped: bool = False
    fetched_bytes: int = 0
    failures: list[problems.ItemFailure] = field(default_factory=list)


class _Failure(Exception):
    """The whole batch cannot be taken in. The message is one sentence."""


class Intake:
    """What makes pictures of image batches. Implements ports.Intake."""

    def __init__(
        self,
        fetcher: Fetcher,
        pool: decoder_pool.DecoderPool,
        memory: arena.Arena,
        *,
        max_payload_bytes: int,
        time: clock.Clock,
        express: Fetcher | None = None,
    ) -> None:
        """`max_payload_bytes`: of a payload once it is decompressed. `express`: fetches what is urgent."""
        self._fetcher = fetcher
        self._express = express or fetcher
        self._pool = pool
        self._arena = memory
        self._max_payload_bytes = max_payload_bytes
        self._clock = time
        # Held by the batch that is being read and waits for its region; those that are urgent have one of their own.
        self._turns = {urgent: asyncio.Lock() for urgent in (True, False)}
        self._batches: dict[str, tuple[_Batch, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def begin(
        self,
        key: str,
        body: bytes,
        picture: pictures.Picture,
        *,
        max_pixels: int,
        max_bytes: int,
        done: Done,
        failed: Failed,
        urgent: bool = False,
    ) -> None:
        """See ports.Intake. Raises ValueError for a key that is in hand already."""
        if key in self._batches:
            raise ValueError(f"The batch {key} is in hand already.")
        batch = _Batch(key, body, picture, max_pixels, max_bytes, done, failed, self._clock.monotonic(), urgent)
        self._batches[key] = batch, asyncio.create_task(self._take(batch), name=f"intake {key}")

    def drop(self, key: str) -> None:
        """See ports.Intake."""
        batch, task = self._batches.pop(key, (None, None))
        if batch is None or task is None:
            return
        batch.dropped = True
        if batch.taken:
            self._give_back(batch)
        elif not task.done():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()

    async def close(self) -> None:
        """Drops every batch, and waits until no decoder is at work on one."""
        for key in list(self._batches):
            self.drop(key)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _take(self, batch: _Batch) -> None:
        """An intake from its begin to the one call that it owes."""
        try:
            stripped = await self._filled(batch)
        except asyncio.CancelledError:
            self._give_back(batch)
            raise
        except payloads.BadPayload as error:
            self._fail(batch, "BAD_PAYLOAD", str(error))
        except _Failure as failure:
            self._fail(batch, "INTERNAL", str(failure))
        except Exception:
            log.exception("intake_failed", batch=batch.key)
            self._fail(batch, "INTERNAL", "Its images could not be taken in; the worker's log tells why.")
        else:
            batch.taken = True
            batch.done(batch.key, self._taken(batch, stripped))

    async def _filled(self, batch: _Batch) -> bytes:
        """Fills the batch's region; returns what goes on in place of the body."""
        async with self._turns[batch.urgent]:
            stripped, sources = await asyncio.to_thread(_read, batch.body, self._max_payload_bytes)
            batch.body = b""
            batch.nbytes = len(sources) * batch.picture.nbytes
            batch.offset = await self._allocated(batch)
        missing = ""
        try:
            async with asyncio.TaskGroup() as items:
                for index, source in enumerate(sources):
                    items.create_task(self._item(batch, index, source))
                # Each file is let go of as soon as it is decoded; the last item may be long in coming.
                sources.clear()
                source = None
        except* decoder_pool.Unavailable as group:
            missing = str(group.exceptions[0])
        if missing:
            raise _Failure(missing)
        return stripped

    async def _allocated(self, batch: _Batch) -> int:
        try:
            return await self._arena.allocate(batch.nbytes, urgent=batch.urgent)
        except ValueError as error:
            raise _Failure(f"Its pictures have no room in the arena: {error}") from error

    async def _item(self, batch: _Batch, index: int, source: _Source) -> None:
        """Raises decoder_pool.Unavailable; everything else that can go wrong is the item's failure."""
        try:
            match source:
                case bytes():
                    _check_size(source, batch.max_bytes)
                    await self._decoded(batch, index, source)
                case str():
                    await self._fetched(batch, index, source)
                case None:
                    raise problems.ItemProblem(problems.Reason.UNDECODABLE, "The item has neither a URL nor data.")
        except problems.ItemProblem as problem:
            self._note(batch, index, problem)

    async def _fetched(self, batch: _Batch, index: int, url: str) -> None:
        try:
            fetcher = self._express if batch.urgent else self._fetcher
            async with fetcher.body(url, batch.max_bytes) as data:
                batch.fetched_bytes += len(data)
                await self._decoded(batch, index, data)
        except (problems.ItemProblem, decoder_pool.Unavailable):
            raise
        except Exception as error:
            log.exception("fetch_failed_unexpectedly", batch=batch.key, item=index)
            message = "Something unforeseen went wrong while the image was fetched."
            raise problems.ItemProblem(problems.Reason.FETCH_FAILED, message) from error

    async def _decoded(self, batch: _Batch, index: int, data: bytes) -> None:
        try:
            place = self._place(batch, index)
            await self._pool.decode(data, batch.picture, max_pixels=batch.max_pixels, offset=place, urgent=batch.urgent)
        except (problems.ItemProblem, decoder_pool.Unavailable):
            raise
        except Exception as error:
            log.exception("decode_failed_unexpectedly", batch=batch.key, item=index)
            message = "Something unforeseen went wrong while the image was decoded."
            raise problems.ItemProblem(problems.Reason.UNDECODABLE, message) from error

    def _note(self, batch: _Batch, index: int, problem: problems.ItemProblem) -> None:
        # What was there before belongs to somebody else.
        self._arena.view(self._place(batch, index), (batch.picture.nbytes,))[:] = 0
        batch.failures.append(problems.ItemFailure(index, problem.reason, problem.message))

    def _place(self, batch: _Batch, index: int) -> int:
        assert batch.offset is not None, "it has a region"
        return batch.offset + index * batch.picture.nbytes

    def _taken(self, batch: _Batch, stripped: bytes) -> ports.Taken:
        assert batch.offset is not None, "it has a region"
        return ports.Taken(
            body=stripped,
            picture=batch.picture,
            offset=batch.offset,
            nbytes=batch.nbytes,
            failures=tuple(sorted(batch.failures, key=lambda failure: failure.index)),
            fetch_s=self._clock.monotonic() - batch.started,
            fetched_bytes=batch.fetched_bytes,
        )

    def _fail(self, batch: _Batch, reason: str, message: str) -> None:
        self._give_back(batch)
        if not batch.dropped:
            del self._batches[batch.key]
            batch.failed(batch.key, reason, message)

    def _give_back(self, batch: _Batch) -> None:
        if batch.offset is not None:
            self._arena.release(batch.offset)
            batch.offset = None


def _read(body: bytes, max_payload_bytes: int) -> tuple[bytes, list[_Source]]:
    """The Assign with the keys as its whole payload, and where the images are that are to be computed. Raises
    payloads.BadPayload.

    Nothing refers to the message any more: it would hold every file until the last one is let go of.
    """
    assign = worker_pb2.Assign.FromString(body)
    images = payloads.images(assign, max_payload_bytes).items
    plan = known.plan(assign)
    asked = images if plan is None else [images[item] for item in plan.computed]
    keys = item_pb2.ImageItems(items=[item_pb2.ImageItem(key=image.key) for image in images])
    assign.payload = keys.SerializeToString()
    assign.payload_encoding = item_pb2.PAYLOAD_ENCODING_IDENTITY
    return assign.SerializeToString(), [_source(image) for image in asked]


def _source(image: item_pb2.ImageItem) -> _Source:
    match image.WhichOneof("image"):
        case "data":
            return image.data
        case "url":
            return image.url
        case _:
            return None


def _check_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        message = f"The image has {len(data)} bytes; at most {max_bytes} are taken."
        raise problems.ItemProblem(problems.Reason.TOO_LARGE, message)
