"""The asynchronous client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

from podium.common.v1.item_pb2 import EmbeddingOptions
from podium.gateway.v1 import gateway_pb2
from podium_client import arguments, queries
from podium_client.arguments import InputType, Target
from podium_client.config import Endpoint, Tls, resolve_endpoint
from podium_client.consuming import DEFAULT_WINDOW, Consumer, Delivery
from podium_client.embedding import EmbedCall, ProgressCallback
from podium_client.encodings import Dtype
from podium_client.fetch import fetch
from podium_client.items import IMAGES, TEXTS, ImageLike, Kind, TextLike
from podium_client.jobs import Job, JobState, Workload, embedding_options
from podium_client.parts import (
    DEFAULT_BYTES_PER_JOB,
    DEFAULT_IMAGE_BYTES_PER_JOB,
    DEFAULT_ITEMS_PER_JOB,
    whole,
)
from podium_client.results import Embeddings, ResultChunk, Summary
from podium_client.retry import RetryPolicy
from podium_client.rpc import Gateway
from podium_client.sinks import MemorySink, Sink
from podium_client.streams import ResultStream, release, watch
from podium_client.submission import place, put_items

T = TypeVar("T")


class AsyncClient:
    """Client of one Podium gateway, for asyncio. Use as `async with AsyncClient() as podium`.

    Without arguments the gateway is found by PODIUM_ADDRESS and PODIUM_TOKEN, else by what `podium up`
    wrote. `tls`: True for the system's authorities, or a Tls. `retry`: how long to go on when the service
    is away or full. ConfigurationError when there is no address.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        tls: Tls | bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.endpoint: Endpoint = resolve_endpoint(address, token, tls)
        self._policy = retry or RetryPolicy()
        self._opened: Gateway | None = None

    @property
    def _gateway(self) -> Gateway:
        if self._opened is None:
            self._opened = Gateway(self.endpoint, self._policy)
        return self._opened

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            gateway, self._opened = self._opened, None
            await gateway.close()

    async def embed_texts(
        self,
        texts: Iterable[TextLike],
        *,
        workload: str,
        input_type: InputType | None = None,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        run: str | None = None,
        budget_usd: float | None = None,
        max_jobs_in_flight: int = 4,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_BYTES_PER_JOB,
        release: bool = True,
        progress: ProgressCallback | None = None,
    ) -> Embeddings:
        """Embed texts; returns (n, dimension) float32 in input order, with the items' errors beside it. A text may be
        given as a list of token ids of the model's own tokenizer, where the workload accepts them.

        The input is read lazily in a thread and cut into jobs. When the process is killed, the same call
        (same texts, workload, options, labels, priority, budget, `run` and bounds) finds its jobs again and
        resumes. `run`: a name of your own that keeps this run apart from others over the same texts.
        `progress` is called in the event loop with a CallProgress after each chunk. `release`: let the
        service delete the results once they are here. `dimensions`: truncated to the first so many elements;
        `dtype`: another encoding, as podium_client.Layout says (see Embeddings.to_float32 and unpack). A workload
        says what it allows of both. `deduplicate`: identical texts (images: identical files, never URLs) are computed
        once, in this call and among this app's jobs that ask for it, as long as the service remembers them.
        `budget_usd`: the most that rented pods may cost for each of the jobs, in USD; what is left of a job then waits,
        or is done on pods that are there for others.

        on_error "raise": ItemsFailed, carrying the whole result, when any item failed (the other jobs'
        results stay at the service for a next run); "return": look at `errors` and `ok`.
        """
        return await self._embed(
            TEXTS,
            texts,
            embedding_options(input_type, dimensions, dtype),
            on_error,
            arguments.Flow(max_jobs_in_flight=max_jobs_in_flight, release=release, progress=progress),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def embed_texts_to(
        self,
        target: Target,
        texts: Iterable[TextLike],
        *,
        workload: str,
        input_type: InputType | None = None,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        run: str | None = None,
        budget_usd: float | None = None,
        max_jobs_in_flight: int = 4,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_BYTES_PER_JOB,
        release: bool = True,
        progress: ProgressCallback | None = None,
    ) -> Summary:
        """Embed texts into PATH.npy, .parquet, .jsonl or a Sink, with memory bounded by
        `max_jobs_in_flight` jobs.

        The file appears when it is complete and on disk, and only then are the results released. Failed
        items do not raise: they are in the summary, and all of them in the sink. Otherwise as embed_texts.
        """
        return await self._embed_to(
            TEXTS,
            arguments.sink_of(target),
            texts,
            embedding_options(input_type, dimensions, dtype),
            arguments.Flow(max_jobs_in_flight=max_jobs_in_flight, release=release, progress=progress),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def embed_images(
        self,
        images: Iterable[ImageLike],
        *,
        workload: str,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        run: str | None = None,
        budget_usd: float | None = None,
        max_jobs_in_flight: int = 4,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_IMAGE_BYTES_PER_JOB,
        release: bool = True,
        progress: ProgressCallback | None = None,
    ) -> Embeddings:
        """Embed images: http, https or s3 URLs (str), which the workers fetch; encoded files (bytes); or local files
        (pathlib.Path), which are read one job at a time and sent inline. A str is never a local path.

        An image that cannot be fetched or decoded is an item error; InvalidInput when a str is no URL, or a file
        cannot be read. A run that was killed finds its jobs again by the URLs and by the content of files and bytes.
        Otherwise as embed_texts.
        """
        return await self._embed(
            IMAGES,
            images,
            embedding_options(None, dimensions, dtype),
            on_error,
            arguments.Flow(max_jobs_in_flight=max_jobs_in_flight, release=release, progress=progress),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def embed_images_to(
        self,
        target: Target,
        images: Iterable[ImageLike],
        *,
        workload: str,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        run: str | None = None,
        budget_usd: float | None = None,
        max_jobs_in_flight: int = 4,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_IMAGE_BYTES_PER_JOB,
        release: bool = True,
        progress: ProgressCallback | None = None,
    ) -> Summary:
        """Embed images into PATH.npy, .parquet, .jsonl or a Sink: as embed_texts_to, of what embed_images takes."""
        return await self._embed_to(
            IMAGES,
            arguments.sink_of(target),
            images,
            embedding_options(None, dimensions, dtype),
            arguments.Flow(max_jobs_in_flight=max_jobs_in_flight, release=release, progress=progress),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def query_texts(
        self,
        texts: Sequence[TextLike],
        *,
        workload: str,
        input_type: InputType | None = None,
        keys: Iterable[str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        on_error: Literal["raise", "return"] = "raise",
        timeout_s: float = queries.DEFAULT_TIMEOUT_S,
    ) -> Embeddings:
        """Embed 1 to 64 texts at once, ahead of all jobs, for somebody who waits; nothing is stored.

        Within `timeout_s` seconds there are the vectors or an error: Unavailable (reason NO_WARM_WORKER: no worker has
        the model loaded; it is being loaded now, and `retry_after_s` says how long that takes), Overloaded,
        DeadlineExceeded. Unlike embed_texts, which takes any number, makes a job of them and never loses it.
        """
        options = embedding_options(input_type, dimensions, dtype)
        return await self._query(TEXTS, texts, workload, options, keys, timeout_s, on_error)

    async def query_images(
        self,
        images: Sequence[ImageLike],
        *,
        workload: str,
        keys: Iterable[str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        on_error: Literal["raise", "return"] = "raise",
        timeout_s: float = queries.DEFAULT_TIMEOUT_S,
    ) -> Embeddings:
        """Embed 1 to 64 images at once, as query_texts does, of what embed_images takes; 16 MiB in all when sent."""
        options = embedding_options(None, dimensions, dtype)
        return await self._query(IMAGES, images, workload, options, keys, timeout_s, on_error)

    async def submit_texts(
        self,
        texts: Iterable[TextLike],
        *,
        workload: str,
        input_type: InputType | None = None,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        run: str | None = None,
        budget_usd: float | None = None,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_BYTES_PER_JOB,
    ) -> list[Job]:
        """Submit without waiting for results. The jobs are those that embed_texts would make, in input
        order, so a later embed_texts over the same input picks up their results."""
        return await self._submit(
            TEXTS,
            texts,
            embedding_options(input_type, dimensions, dtype),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def submit_images(
        self,
        images: Iterable[ImageLike],
        *,
        workload: str,
        keys: Iterable[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        run: str | None = None,
        budget_usd: float | None = None,
        items_per_job: int = DEFAULT_ITEMS_PER_JOB,
        bytes_per_job: int = DEFAULT_IMAGE_BYTES_PER_JOB,
    ) -> list[Job]:
        """Submit without waiting for results. The jobs are those that embed_images would make, in input
        order, so a later embed_images over the same input picks up their results."""
        return await self._submit(
            IMAGES,
            images,
            embedding_options(None, dimensions, dtype),
            workload=workload,
            keys=keys,
            priority=priority,
            labels=labels,
            deduplicate=deduplicate,
            run=run,
            budget_usd=budget_usd,
            items_per_job=items_per_job,
            bytes_per_job=bytes_per_job,
        )

    async def submit(
        self,
        texts: Sequence[TextLike] | None = None,
        *,
        images: Sequence[ImageLike] | None = None,
        workload: str,
        request_id: uuid.UUID | str | None = None,
        input_type: InputType | None = None,
        keys: Sequence[str] | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        deduplicate: bool = False,
        completion_window_s: float | None = None,
        budget_usd: float | None = None,
    ) -> Job:
        """Submit exactly one job of 1 to 50,000 texts or images, inline images up to what the service takes in one
        message (64 MiB unless set otherwise). `request_id` makes repeating it harmless; by default a random one.
        `budget_usd`: as of embed_texts. RequestIdConflict: it was used with another payload. InvalidInput: a field is
        bad."""
        message = gateway_pb2.SubmitBatchRequest(
            request_id=str(request_id or uuid.uuid4()),
            workload=workload,
            labels=dict(labels or {}),
            options=embedding_options(input_type, dimensions, dtype),
            deduplicate=deduplicate,
        )
        if priority is not None:
            message.priority = priority
        if completion_window_s is not None:
            message.completion_window.FromNanoseconds(int(completion_window_s * 1e9))
        if budget_usd is not None:
            message.budget_usd = budget_usd
        if texts is not None and images is None:
            put_items(message, whole(arguments.checked(texts, TEXTS), keys, TEXTS))
        elif images is not None and texts is None:
            put_items(message, await asyncio.to_thread(whole, arguments.checked(images, IMAGES), keys, IMAGES))
        else:
            raise TypeError("submit: either texts or images are needed")
        job, _ = await self._gateway.submit(message)
        return job

    async def _embed(
        self,
        kind: Kind[T],
        inputs: Iterable[T],
        options: EmbeddingOptions,
        on_error: Literal["raise", "return"],
        flow: arguments.Flow,
        **how: Unpack[arguments.How],
    ) -> Embeddings:
        sink = MemorySink(arguments.length(arguments.checked(inputs, kind)))
        call = self._call(kind, inputs, sink, options, flow, **how)
        summary = await call.run()
        result = sink.embeddings(summary.jobs)
        if flow["release"]:
            await call.release(only_failed=on_error == "raise" and bool(result.errors))
        if on_error == "raise":
            arguments.raise_if_failed(result)
        return result

    async def _query(
        self,
        kind: Kind[T],
        inputs: Sequence[T],
        workload: str,
        options: EmbeddingOptions,
        keys: Iterable[str] | None,
        timeout_s: float,
        on_error: Literal["raise", "return"],
    ) -> Embeddings:
        inputs = list(arguments.checked(inputs, kind))
        if kind.name == "images":
            # Files are read here, which may take a while.
            request = await asyncio.to_thread(queries.request_of, kind, inputs, workload, options, keys)
        else:
            # Waking a thread for it takes longer than the thing itself.
            request = queries.request_of(kind, inputs, workload, options, keys)
        result = await queries.query(self._gateway, request, len(inputs), timeout_s, with_keys=keys is not None)
        if on_error == "raise":
            arguments.raise_if_failed(result)
        return result

    async def _embed_to(
        self,
        kind: Kind[T],
        sink: Sink,
        inputs: Iterable[T],
        options: EmbeddingOptions,
        flow: arguments.Flow,
        **how: Unpack[arguments.How],
    ) -> Summary:
        call = self._call(kind, inputs, sink, options, flow, **how)
        summary = await call.run()
        if flow["release"]:
            await call.release()
        return summary

    def _call(
        self,
        kind: Kind[T],
        inputs: Iterable[T],
        sink: Sink,
        options: EmbeddingOptions,
        flow: arguments.Flow,
        **how: Unpack[arguments.How],
    ) -> EmbedCall:
        if flow["max_jobs_in_flight"] < 1:
            raise ValueError(f"max_jobs_in_flight: at least 1, not {flow['max_jobs_in_flight']}")
        return EmbedCall(
            self._gateway,
            arguments.spec_of(options, how),
            arguments.feed_of(kind, inputs, how),
            sink,
            window=flow["max_jobs_in_flight"],
            total=arguments.length(inputs),
            may_release=flow["release"],
            on_progress=flow["progress"],
        )

    async def _submit(
        self, kind: Kind[T], inputs: Iterable[T], options: EmbeddingOptions, **how: Unpack[arguments.How]
    ) -> list[Job]:
        spec, feed = arguments.spec_of(options, how), arguments.feed_of(kind, inputs, how)
        patience = self._gateway.patience()
        jobs = []
        try:
            while (part := await feed.next()) is not None:
                jobs.append(await place(self._gateway, spec, part, patience))
        finally:
            feed.close()
        return jobs

    async def job(self, job_id: str) -> Job:
        """Read one job. JobNotFound when this app has no such job."""
        return await self._gateway.get_job(job_id)

    async def jobs(
        self,
        *,
        states: Sequence[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        workload: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Job]:
        """The app's jobs, newest first, fetched page by page as they are consumed."""
        async for job in self._gateway.list_jobs(
            states=states, labels=labels, workload=workload or "", page_size=page_size
        ):
            yield job

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job now and at every change, until its final state."""
        async for job in watch(self._gateway, job_id):
            yield job

    async def cancel(self, job_id: str) -> Job:
        """Cancel what is left of a job. FailedPrecondition when it is completed or expired already."""
        return await self._gateway.cancel_job(job_id)

    async def results(self, job_id: str, *, after: str = "") -> AsyncIterator[ResultChunk]:
        """The job's chunks in item order, as they become ready. `after`: the cursor of the last chunk that
        you have made durable; everything before it is released at the service. ResultsReleased when it was
        before."""
        async for chunk in ResultStream(self._gateway, job_id, after=after).chunks():
            yield chunk

    async def release(self, job_id: str, cursor: str) -> None:
        """Acknowledge everything before `cursor`: the service deletes it."""
        await release(self._gateway, job_id, cursor)

    async def fetch(
        self, job_id: str, *, on_error: Literal["raise", "return"] = "raise", release: bool = False
    ) -> Embeddings:
        """All results of one job, waiting for those not ready. Without `release` nothing of it is released, and
        ResultsUnacknowledged is raised when the service needs that room for the rest."""
        sink = MemorySink()
        summary = await fetch(self._gateway, job_id, sink, release_after=release, on_progress=None)
        result = sink.embeddings(summary.jobs)
        if on_error == "raise":
            arguments.raise_if_failed(result)
        return result

    async def fetch_to(
        self, target: Target, job_id: str, *, release: bool = False, progress: ProgressCallback | None = None
    ) -> Summary:
        """All results of one job into a file or sink."""
        sink = arguments.sink_of(target)
        return await fetch(self._gateway, job_id, sink, release_after=release, on_progress=progress)

    async def consume(
        self, *, group: str, window: int = DEFAULT_WINDOW, workload: str | None = None
    ) -> AsyncGenerator[Delivery, None]:
        """Everything of this app that finishes, shared with the other consumers of `group`, until you stop.

        Each delivery comes until you `await delivery.ack()` it: at least once (see podium_client.consuming
        for how to be exact). `window`: deliveries, 1 to 1,000, that you hold without acknowledging; when as
        many are out, nothing more comes. `workload`: only its jobs; the same for all consumers of a group.
        Leaving the loop gives back what you have not acknowledged: use contextlib.aclosing to leave at once.

        Results that all groups have acknowledged are released, and `results`, `fetch` and embed_texts cannot
        read them any more: give consumers an app of their own, or read results in one way only.
        """
        consumer = Consumer(self._gateway, group, window=window, workload=workload or "")
        async with aclosing(consumer.deliveries()) as deliveries:
            async for delivery in deliveries:
                yield delivery

    async def workloads(self) -> list[Workload]:
        """What jobs may name, by name."""
        return await self._gateway.workloads()
