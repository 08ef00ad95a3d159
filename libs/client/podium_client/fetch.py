"""Reading the whole result of one job that is known by its id."""

from __future__ import annotations

from dataclasses import replace

from podium_client.embedding import CallProgress, Collector, Finished, Model, ProgressCallback, in_thread
from podium_client.results import ResultChunk, Summary
from podium_client.rpc import Gateway
from podium_client.sinks.base import Outcome, Sink
from podium_client.streams import ResultStream, release


async def fetch(
    gateway: Gateway,
    job_id: str,
    sink: Sink,
    *,
    release_after: bool,
    on_progress: ProgressCallback | None,
) -> Summary:
    """Wait for all outcomes of the job and write them into the sink; a cancelled or expired job gives its
    items typed errors. Released after the commit when `release_after`; else nothing is, and ResultsUnacknowledged says
    that the service has no room for the rest before somebody releases something."""
    job = await gateway.get_job(job_id)
    total = job.progress.items_total
    model = Model(gateway, job.workload, job.dimensions, job.dtype)
    progress = CallProgress(items_total=total, items_submitted=total, jobs=1)
    keys: dict[int, tuple[str, ...]] = {}

    def count(chunk: ResultChunk) -> None:
        if chunk.keys:
            keys[chunk.first_item] = chunk.keys
        progress.add(chunk)
        if on_progress is not None:
            on_progress(progress)

    try:
        collector = Collector(sink, model, 0, total, None, count)
        finished = await collector.collect(ResultStream(gateway, job_id, may_release=release_after))
        outcome = _with_keys(finished, keys, total)
        await in_thread(sink.write, outcome)
        layout = await model.layout()
        await in_thread(sink.commit, layout, model.provenance)
    except BaseException:
        sink.abort()
        raise
    if release_after:
        await release(gateway, job_id, finished.end.cursor)
    return Summary(
        items=total,
        succeeded=total - progress.items_failed,
        failed=progress.items_failed,
        truncated=progress.items_truncated,
        dimension=layout.dimension,
        jobs=(job_id,),
        provenance=model.provenance,
        errors=outcome.errors[:1000],
        dtype=layout.dtype,
    )


def _with_keys(finished: Finished, keys: dict[int, tuple[str, ...]], total: int) -> Outcome:
    """Add the keys that came with the chunks; batches that failed as a whole came without, theirs stay
    empty."""
    outcome = finished.outcome
    if not keys:
        return outcome
    whole = [""] * total
    for first, some in keys.items():
        whole[first : first + len(some)] = some
    return replace(outcome, keys=tuple(whole))
