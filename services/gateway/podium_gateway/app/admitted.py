"""Jobs that this gateway has admitted lately, so that whoever reads their results need not ask the scheduler for them.

What is remembered is what was true when the job was accepted: how many items it has, that it is this app's, and that
nothing of it was released yet. Whatever happens to it later a reader finds out as it goes (see `results`).
"""

from __future__ import annotations

from collections import OrderedDict

from podium.common.v1 import job_pb2
from podium_runtime import clock

TTL_S = 10.0
CAPACITY = 1_000


class AdmittedJobs:
    """At most CAPACITY jobs, each for TTL_S seconds; the oldest go first."""

    def __init__(self, time: clock.Clock) -> None:
        self._clock = time
        self._jobs: OrderedDict[tuple[str, str], tuple[float, job_pb2.Job]] = OrderedDict()

    def note(self, app_id: str, job: job_pb2.Job) -> None:
        """A job was accepted just now."""
        self._jobs[app_id, job.job_id] = (self._clock.monotonic() + TTL_S, job)
        while len(self._jobs) > CAPACITY:
            self._jobs.popitem(last=False)

    def find(self, app_id: str, job_id: str) -> job_pb2.Job | None:
        """The job as it was accepted, if this app's and remembered."""
        until, job = self._jobs.get((app_id, job_id), (0.0, None))
        return job if self._clock.monotonic() < until else None
