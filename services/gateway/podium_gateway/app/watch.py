"""WatchJob: the job now, then whenever it changes, until it is final.

A wake-up only asks for a look at the ledger; a look without one comes every second. Looks are at least 0.2 s
apart, so that a job with thousands of batches sends its client five messages a second and not thousands.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from podium.common.v1 import job_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import callers, jobs, ports, refusals, wakes
from podium_runtime import clock

POLL_S = 1.0
MIN_INTERVAL_S = 0.2


class WatchJob:
    """Follows jobs."""

    def __init__(self, ledger: ports.Ledger, events: ports.JobEvents, time: clock.Clock) -> None:
        self._ledger = ledger
        self._events = events
        self._clock = time

    async def __call__(
        self, caller: callers.Caller, request: gateway_pb2.WatchJobRequest
    ) -> AsyncGenerator[gateway_pb2.WatchJobResponse, None]:
        """Raises errors.InvalidArgument, NotFound, Unavailable."""
        job_id = refusals.job_id(request.job_id)
        shown: job_pb2.Job | None = None
        async with self._events.subscribe(job_id) as woken:
            while True:
                woken.clear(wakes.STATE, wakes.PROGRESS)
                looked_at = self._clock.monotonic()
                job = await self._ledger.get_job(caller, job_id)
                if job != shown:
                    yield gateway_pb2.WatchJobResponse(job=job)
                    shown = job
                if job.state in jobs.FINAL:
                    return
                await woken.wait(POLL_S, wakes.STATE, wakes.PROGRESS)
                too_early = looked_at + MIN_INTERVAL_S - self._clock.monotonic()
                if too_early > 0:
                    await self._clock.sleep(too_early)
