"""The buffer: work streams that workers are fed from, and results that gateways read.

Nothing in it is truth. Every method raises errors.Unavailable while Redis is away and errors.ResourceExhausted when it
is full; the caller waits and tries again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import google_crc32c
import numpy as np
import redis.asyncio as redis
from redis import exceptions
from redis.commands.core import AsyncScript

from podium_runtime import errors, logs
from podium_scheduler.app import records
from podium_scheduler.domain import room

log = logs.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Result = tuple[UUID, int, int, Sequence[bytes | memoryview]]
_GROUP = "schedulers"
_PORTION_BYTES = 1 << 20
_HERE = Path(__file__).parent
_SCAN = 1_000
_GONE = -1
"""The answer of `admit_result`."""

# What a failover, a restart or a full disk makes Redis say for a while.
_PASSING = (
    exceptions.ReadOnlyError,
    exceptions.NoScriptError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
_PASSING_WORDS = ("READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "NOSCRIPT", "busy running a script")


def buffer_call(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turns Redis' errors into ours."""

    @functools.wraps(call)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except exceptions.OutOfMemoryError as error:
            raise errors.ResourceExhausted("the buffer is full", reason="BUFFER_FULL") from error
        except (
            exceptions.ConnectionError,
            exceptions.TimeoutError,
            exceptions.BusyLoadingError,
            OSError,
        ) as error:
            raise errors.Unavailable("the buffer does not answer", reason="BUFFER_UNAVAILABLE") from error
        except exceptions.ResponseError as error:
            # Raised inside a script, the refusal has no class of its own.
            if "OOM" in str(error):
                raise errors.ResourceExhausted("the buffer is full", reason="BUFFER_FULL") from error
            if isinstance(error, _PASSING) or any(word in str(error) for word in _PASSING_WORDS):
                raise errors.Unavailable("the buffer cannot write now", reason="BUFFER_UNAVAILABLE") from error
            raise

    return guarded


class Buffer:
    """Podium's keys in one Redis."""

    def __init__(self, url: str, *, prefix: str, consumer: str, result_ttl_s: int) -> None:
        # Callers wait for their turn: more of them than connections is no failure.
        pool: redis.BlockingConnectionPool = redis.BlockingConnectionPool.from_url(
            url, max_connections=32, timeout=5, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30
        )
        self.client: redis.Redis = redis.Redis.from_pool(pool)
        self._prefix = prefix
        self._consumer = consumer
        self._ttl = result_ttl_s
        self._admit = self._script("admit_result")
        self._release = self._script("release_results")
        self._drop = self._script("drop_batches")
        self._present = self._script("present_results")

    def _script(self, name: str) -> AsyncScript:
        return self.client.register_script((_HERE / f"{name}.lua").read_text(encoding="utf-8"))

    def work_key(self, workload: str) -> str:
        """The work stream of a workload."""
        return f"{self._prefix}:work:{workload}"

    def chunks_key(self, job_id: UUID) -> str:
        """Hash of `first_item:upload:number` to a serialized ResultChunk, of a job; the braces keep it and its index on
        one node of a Redis cluster."""
        return f"{self.chunks_key_prefix()}{job_id}}}"

    def chunks_key_prefix(self) -> str:
        """How the keys of all jobs' chunks begin."""
        return f"{self._prefix}:chunks:{{"

    def index_key(self, job_id: UUID) -> str:
        """Hash of first_item to `upload item_count size ...`: which of the chunks are the batch's, and how large."""
        return f"{self._prefix}:index:{{{job_id}}}"

    def job_channel(self, job_id: UUID) -> str:
        """Where those who wait for a job listen."""
        return f"{self._prefix}:job:{job_id}"

    def _keys(self, job_id: UUID) -> list[str]:
        """What the scripts about a job's results work on."""
        return [self.index_key(job_id), self.chunks_key(job_id)]

    @buffer_call
    async def ping(self) -> None:
        """Raises errors.Unavailable when Redis does not answer."""
        await self.client.ping()

    @buffer_call
    async def ensure_groups(self, workloads: Sequence[str]) -> None:
        """Creates the work streams and their consumer group where they are missing."""
        for workload in await self._without_group(workloads):
            try:
                await self.client.xgroup_create(self.work_key(workload), _GROUP, id="0", mkstream=True)
            except exceptions.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _without_group(self, workloads: Sequence[str]) -> list[str]:
        """Asked first, because a full Redis refuses to create even what is there."""
        async with self.client.pipeline(transaction=False) as pipe:
            for workload in workloads:
                pipe.xinfo_groups(self.work_key(workload))
            replies = await pipe.execute(raise_on_error=False)
        missing = []
        for workload, reply in zip(workloads, replies, strict=True):
            absent = isinstance(reply, exceptions.ResponseError) and "no such key" in str(reply)
            if isinstance(reply, Exception) and not absent:
                raise reply
            if absent or not reply:
                missing.append(workload)
        return missing

    @buffer_call
    async def life(self, proposed: str) -> str:
        """The name of this Redis' life: `epoch/run`.

        The epoch is a key (`proposed` where there is none), gone when everything is. The run is the server process'
        own: a restart that lost the last second, or a replica that took over and lags, has the key but another run.
        """
        key = f"{self._prefix}:epoch"
        # Asked first, because a full Redis refuses to set even what is there.
        found = await self.client.get(key)
        if found is None:
            await self.client.set(key, proposed, nx=True)
            found = await self.client.get(key)
        server: Mapping[str, Any] = await self.client.info("server")
        epoch = found.decode() if isinstance(found, bytes) else proposed
        return f"{epoch}/{server.get('run_id', '')}"

    @buffer_call
    async def depths(self, workloads: Sequence[str]) -> dict[str, int]:
        """Entries in each work stream: read ones leave it, so these are those that wait."""
        async with self.client.pipeline(transaction=False) as pipe:
            for workload in workloads:
                pipe.xlen(self.work_key(workload))
            return dict(zip(workloads, await pipe.execute(), strict=True))

    @buffer_call
    async def depths_and_memory(self, workloads: Sequence[str]) -> tuple[dict[str, int], room.Memory]:
        """Both in one round trip."""
        async with self.client.pipeline(transaction=False) as pipe:
            for workload in workloads:
                pipe.xlen(self.work_key(workload))
            pipe.info("memory")
            *depths, info = await pipe.execute()
        return dict(zip(workloads, depths, strict=True)), _memory(info)

    @buffer_call
    async def push(self, workload: str, batch_ids: Sequence[int]) -> None:
        """Appends references to a work stream."""
        async with self.client.pipeline(transaction=False) as pipe:
            for batch_id in batch_ids:
                pipe.xadd(self.work_key(workload), {"b": batch_id})
            await pipe.execute()

    @buffer_call
    async def read(self, wanted: Mapping[str, int]) -> list[records.Entry]:
        """Takes up to the wanted number of entries from each work stream, without waiting."""
        async with self.client.pipeline(transaction=False) as pipe:
            for workload, count in wanted.items():
                pipe.xreadgroup(_GROUP, self._consumer, {self.work_key(workload): ">"}, count=count)
            replies = await pipe.execute(raise_on_error=False)
        entries: list[records.Entry] = []
        for workload, reply in zip(wanted, replies, strict=True):
            if isinstance(reply, exceptions.ResponseError) and "NOGROUP" in str(reply):
                await self.ensure_groups([workload])
                continue
            if isinstance(reply, Exception):
                raise reply
            entries += _entries(workload, _stream_messages(reply))
        return entries

    @buffer_call
    async def take_over(self, workload: str, idle_ms: int, count: int) -> list[records.Entry]:
        """Takes entries that some replica read `idle_ms` ago or longer and never settled."""
        try:
            reply = await self.client.xautoclaim(
                self.work_key(workload), _GROUP, self._consumer, min_idle_time=idle_ms, count=count
            )
        except exceptions.ResponseError as error:
            if "NOGROUP" in str(error):
                return []
            raise
        return _entries(workload, reply[1])

    @buffer_call
    async def settle(self, entries: Sequence[records.Entry]) -> None:
        """Removes entries whose batch has been claimed or needs no claim."""
        by_workload: dict[str, list[str]] = {}
        for entry in entries:
            by_workload.setdefault(entry.workload, []).append(entry.entry_id)
        async with self.client.pipeline(transaction=False) as pipe:
            for workload, ids in by_workload.items():
                pipe.xack(self.work_key(workload), _GROUP, *ids)
                pipe.xdel(self.work_key(workload), *ids)
            await pipe.execute()

    @buffer_call
    async def entries(self, workloads: Sequence[str]) -> list[records.Entry]:
        """All entries of the work streams. None is longer than its target depth."""
        async with self.client.pipeline(transaction=False) as pipe:
            for workload in workloads:
                pipe.xrange(self.work_key(workload))
            replies = await pipe.execute()
        return [e for workload, reply in zip(workloads, replies, strict=True) for e in _entries(workload, reply or ())]

    @buffer_call
    async def admit_results(self, results: Sequence[Result]) -> None:
        """Puts the results of batches (job, first_item, item_count, chunks) where gateways find them, each once, and
        tells those who wait for them.

        Nobody finds a chunk before a script has named its upload, of which a batch has one; so two attempts at the same
        batch may put theirs at the same time. In portions: what Redis has received and not yet stored counts as used
        memory too.
        """
        for portion in _portions(results):
            try:
                await self._admit_portion(portion)
            except exceptions.NoScriptError:
                # Looked for only now: a pipeline of redis-py would ask before each time whether Redis still has it.
                self._admit.sha = await self.client.script_load(self._admit.script)
                await self._admit_portion(portion)

    async def _admit_portion(self, portion: Sequence[Result]) -> None:
        async with self.client.pipeline(transaction=False) as pipe:
            for job_id, first_item, item_count, chunks in portion:
                keys, upload = self._keys(job_id), _upload(chunks)
                for number, chunk in enumerate(chunks):
                    pipe.execute_command("HSET", keys[1], f"{first_item}:{upload}:{number}", chunk)
                sizes = [len(chunk) for chunk in chunks]
                pipe.evalsha(self._admit.sha, len(keys), *keys, first_item, item_count, self._ttl, upload, *sizes)
            for job_id in dict.fromkeys(job_id for job_id, *_ in portion):
                # Here, as each round trip is a delay for whoever waits.
                pipe.publish(self.job_channel(job_id), "results")
            answers = await pipe.execute(raise_on_error=False)
        ends = list(itertools.accumulate(len(chunks) + 1 for *_, chunks in portion))
        for answer in answers[: ends[-1]]:
            if isinstance(answer, Exception):
                raise answer
        for answer in answers[ends[-1] :]:
            if isinstance(answer, Exception):
                # Who waits looks by itself, later.
                log.warning("results_not_announced", error=repr(answer))
        if any(answers[end - 1] == _GONE for end in ends):
            raise errors.Unavailable("results were lost while they were put", reason="BUFFER_UNAVAILABLE")

    @buffer_call
    async def result_items(self, job_id: UUID) -> set[int]:
        """The first items of the batches whose results are there."""
        return {int(field) for field in await self._present(self._keys(job_id))}

    @buffer_call
    async def drop_batches(self, job_id: UUID, first_items: Sequence[int]) -> None:
        """Drops the results of some batches of a job."""
        await self._drop(self._keys(job_id), list(first_items))

    @buffer_call
    async def release_results(self, job_id: UUID, before_item: int) -> None:
        """Drops the results of the batches that begin before an item."""
        await self._release(self._keys(job_id), [before_item])

    @buffer_call
    async def jobs_there(self) -> list[UUID]:
        """Jobs of which Redis has results."""
        prefix = self.chunks_key_prefix()
        found = [key.decode() async for key in self.client.scan_iter(match=f"{prefix}*", count=_SCAN)]
        return [UUID(key.removeprefix(prefix).rstrip("}")) for key in found]

    @buffer_call
    async def drop_results(self, job_ids: Sequence[UUID]) -> None:
        """Drops all results of jobs."""
        keys = [key for job_id in job_ids for key in self._keys(job_id)]
        await self.client.unlink(*keys)

    @buffer_call
    async def memory(self) -> room.Memory:
        """What Redis says of its memory."""
        return _memory(await self.client.info("memory"))

    async def close(self) -> None:
        """Closes all connections."""
        await self.client.aclose()


def _upload(chunks: Sequence[bytes | memoryview]) -> str:
    """Names an attempt's chunks by what they are: repeating it takes no room, and another attempt's are others."""
    checksum = 0
    for chunk in chunks:
        # It takes arrays, but no memoryview.
        checksum = google_crc32c.extend(checksum, np.frombuffer(chunk, np.uint8))
    return f"{checksum:08x}"


def _memory(info: Mapping[str, Any]) -> room.Memory:
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    return room.Memory(used, limit, evicts=str(info.get("maxmemory_policy", "noeviction")) != "noeviction")


def _portions(results: Sequence[Result]) -> Iterator[list[Result]]:
    portion: list[Result] = []
    waiting = 0
    for result in results:
        portion.append(result)
        waiting += sum(map(len, result[3]))
        if waiting >= _PORTION_BYTES:
            yield portion
            portion, waiting = [], 0
    if portion:
        yield portion


def _stream_messages(reply: Any) -> Sequence[Any]:
    """The messages of a reply about one stream, whichever protocol it came by."""
    if not reply:
        return ()
    if isinstance(reply, dict):
        messages = next(iter(reply.values()))
        # RESP3 wraps the list of messages in one more list.
        return messages[0] if messages and isinstance(messages[0], list) else messages
    return reply[0][1]  # type: ignore[no-any-return]


def _entries(workload: str, messages: Sequence[Any]) -> list[records.Entry]:
    return [
        records.Entry(workload, entry_id.decode(), int(fields[b"b"]))
        for entry_id, fields in messages
        if fields is not None
    ]
