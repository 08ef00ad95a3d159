"""The synchronous client: AsyncClient on a private event loop in a background thread.

Works where a loop runs already (notebooks), since it never uses the caller's. Methods and errors are those
of AsyncClient; callbacks and input iterators run in background threads. An interrupted call is cancelled
here; its jobs go on at the service.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from podium_client.aio import AsyncClient
from podium_client.arguments import InputType, Target
from podium_client.config import Endpoint, Tls
from podium_client.consuming import DEFAULT_WINDOW, Delivery
from podium_client.embedding import ProgressCallback
from podium_client.encodings import Dtype
from podium_client.items import ImageLike, TextLike
from podium_client.jobs import Job, JobState, Workload
from podium_client.parts import DEFAULT_BYTES_PER_JOB, DEFAULT_IMAGE_BYTES_PER_JOB, DEFAULT_ITEMS_PER_JOB
from podium_client.queries import DEFAULT_TIMEOUT_S
from podium_client.results import Embeddings, ResultChunk, Summary
from podium_client.retry import RetryPolicy

T = TypeVar("T")

_DONE = object()
_CLEAN_UP_S = 5.0
# An interrupt that comes just before a thread begins to wait for a lock is heard when the wait ends, and not before.
_HEED_INTERRUPTS_S = 0.2


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="podium-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to completion; an interrupt cancels the work and waits for its clean-up."""
        ended = threading.Event()

        async def root() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(root(), self._loop)
        try:
            while concurrent.futures.wait((future,), _HEED_INTERRUPTS_S).not_done:
                pass
            return future.result()
        except BaseException:
            # Only this one task: it cancels its own children, and those of gRPC must not be touched.
            future.cancel()
            ended.wait(_CLEAN_UP_S)
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing can run any more."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Stop the loop and its thread."""
        if self.closed:
            return
        self.run(self._clean_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLEAN_UP_S)
        self._loop.close()

    async def _clean_up(self) -> None:
        """End the iterators and calls that nobody waits for any more."""
        await self._loop.shutdown_asyncgens()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLEAN_UP_S)


class Client:
    """Client of one Podium gateway. Use as `with Client() as podium`. See AsyncClient for arguments and
    errors."""

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        tls: Tls | bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._client = AsyncClient(address, token, tls=tls, retry=retry)
        self._loop = _Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoint(self) -> Endpoint:
        """Where this client calls."""
        return self._client.endpoint

    def close(self) -> None:
        """Close the connection and end the background thread. Harmless when repeated."""
        if self._loop.closed:
            return
        try:
            self._loop.run(self._client.close())
        finally:
            self._loop.close()

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> Any:
            return await anext(source, _DONE)

        async def close() -> None:
            if hasattr(source, "aclose"):
                await source.aclose()

        try:
            while (item := self._loop.run(following())) is not _DONE:
                yield item
        finally:
            if not self._loop.closed:
                self._loop.run(close())

    def embed_texts(
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
        """Embed texts; returns (n, dimension) float32 in input order. See AsyncClient.embed_texts."""
        return self._loop.run(
            self._client.embed_texts(
                texts,
                workload=workload,
                input_type=input_type,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                on_error=on_error,
                run=run,
                budget_usd=budget_usd,
                max_jobs_in_flight=max_jobs_in_flight,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
                release=release,
                progress=progress,
            )
        )

    def embed_texts_to(
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
        """Embed texts into PATH.npy, .parquet, .jsonl or a Sink. See AsyncClient.embed_texts_to."""
        return self._loop.run(
            self._client.embed_texts_to(
                target,
                texts,
                workload=workload,
                input_type=input_type,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                run=run,
                budget_usd=budget_usd,
                max_jobs_in_flight=max_jobs_in_flight,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
                release=release,
                progress=progress,
            )
        )

    def embed_images(
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
        """Embed images; returns as embed_texts does. See AsyncClient.embed_images."""
        return self._loop.run(
            self._client.embed_images(
                images,
                workload=workload,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                on_error=on_error,
                run=run,
                budget_usd=budget_usd,
                max_jobs_in_flight=max_jobs_in_flight,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
                release=release,
                progress=progress,
            )
        )

    def embed_images_to(
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
        """Embed images into PATH.npy, .parquet, .jsonl or a Sink. See AsyncClient.embed_images_to."""
        return self._loop.run(
            self._client.embed_images_to(
                target,
                images,
                workload=workload,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                run=run,
                budget_usd=budget_usd,
                max_jobs_in_flight=max_jobs_in_flight,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
                release=release,
                progress=progress,
            )
        )

    def query_texts(
        self,
        texts: Sequence[TextLike],
        *,
        workload: str,
        input_type: InputType | None = None,
        keys: Iterable[str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        on_error: Literal["raise", "return"] = "raise",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Embeddings:
        """Embed 1 to 64 texts at once, for somebody who waits. See AsyncClient.query_texts."""
        return self._loop.run(
            self._client.query_texts(
                texts,
                workload=workload,
                input_type=input_type,
                keys=keys,
                dimensions=dimensions,
                dtype=dtype,
                on_error=on_error,
                timeout_s=timeout_s,
            )
        )

    def query_images(
        self,
        images: Sequence[ImageLike],
        *,
        workload: str,
        keys: Iterable[str] | None = None,
        dimensions: int | None = None,
        dtype: Dtype | None = None,
        on_error: Literal["raise", "return"] = "raise",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Embeddings:
        """Embed 1 to 64 images at once. See AsyncClient.query_images."""
        return self._loop.run(
            self._client.query_images(
                images,
                workload=workload,
                keys=keys,
                dimensions=dimensions,
                dtype=dtype,
                on_error=on_error,
                timeout_s=timeout_s,
            )
        )

    def submit_texts(
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
        """Submit without waiting for results. See AsyncClient.submit_texts."""
        return self._loop.run(
            self._client.submit_texts(
                texts,
                workload=workload,
                input_type=input_type,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                run=run,
                budget_usd=budget_usd,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
            )
        )

    def submit_images(
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
        """Submit without waiting for results. See AsyncClient.submit_images."""
        return self._loop.run(
            self._client.submit_images(
                images,
                workload=workload,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                run=run,
                budget_usd=budget_usd,
                items_per_job=items_per_job,
                bytes_per_job=bytes_per_job,
            )
        )

    def submit(
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
        """Submit exactly one job. See AsyncClient.submit."""
        return self._loop.run(
            self._client.submit(
                texts,
                images=images,
                workload=workload,
                request_id=request_id,
                input_type=input_type,
                keys=keys,
                priority=priority,
                labels=labels,
                dimensions=dimensions,
                dtype=dtype,
                deduplicate=deduplicate,
                completion_window_s=completion_window_s,
                budget_usd=budget_usd,
            )
        )

    def job(self, job_id: str) -> Job:
        """Read one job. JobNotFound when this app has no such job."""
        return self._loop.run(self._client.job(job_id))

    def jobs(
        self,
        *,
        states: Sequence[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        workload: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Job]:
        """The app's jobs, newest first, fetched page by page as they are consumed."""
        return self._iterate(self._client.jobs(states=states, labels=labels, workload=workload, page_size=page_size))

    def watch(self, job_id: str) -> Iterator[Job]:
        """The job now and at every change, until its final state."""
        return self._iterate(self._client.watch(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel what is left of a job. FailedPrecondition when it is completed or expired already."""
        return self._loop.run(self._client.cancel(job_id))

    def results(self, job_id: str, *, after: str = "") -> Iterator[ResultChunk]:
        """The job's chunks in item order. See AsyncClient.results."""
        return self._iterate(self._client.results(job_id, after=after))

    def release(self, job_id: str, cursor: str) -> None:
        """Acknowledge everything before `cursor`: the service deletes it."""
        self._loop.run(self._client.release(job_id, cursor))

    def fetch(
        self, job_id: str, *, on_error: Literal["raise", "return"] = "raise", release: bool = False
    ) -> Embeddings:
        """All results of one job, waiting for those not ready."""
        return self._loop.run(self._client.fetch(job_id, on_error=on_error, release=release))

    def fetch_to(
        self, target: Target, job_id: str, *, release: bool = False, progress: ProgressCallback | None = None
    ) -> Summary:
        """All results of one job into a file or sink."""
        return self._loop.run(self._client.fetch_to(target, job_id, release=release, progress=progress))

    def consume(
        self, *, group: str, window: int = DEFAULT_WINDOW, workload: str | None = None
    ) -> Generator[Delivery, None, None]:
        """Everything of this app that finishes, until you stop; `ack` each. See AsyncClient.consume."""
        yield from self._iterate(self._client.consume(group=group, window=window, workload=workload))

    def ack(self, delivery: Delivery) -> None:
        """Say that a delivery is durable on your side and need not come again."""
        self._loop.run(delivery.ack())

    def workloads(self) -> list[Workload]:
        """What jobs may name, by name."""
        return self._loop.run(self._client.workloads())
