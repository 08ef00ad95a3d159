"""Reading, listing and cancelling jobs, and listing workloads."""

from __future__ import annotations

from podium.common.v1 import job_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import callers, ports, refusals, workloads
from podium_gateway.domain import pages, requests, violations

_STATES = frozenset(job_pb2.JobState.values()) - {job_pb2.JOB_STATE_UNSPECIFIED}
FINAL = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_EXPIRED})


class Jobs:
    """The app's own jobs."""

    def __init__(self, ledger: ports.Ledger) -> None:
        self._ledger = ledger

    async def get(self, caller: callers.Caller, request: gateway_pb2.GetJobRequest) -> gateway_pb2.GetJobResponse:
        """Raises errors.InvalidArgument, NotFound, Unavailable."""
        job = await self._ledger.get_job(caller, refusals.job_id(request.job_id))
        return gateway_pb2.GetJobResponse(job=job)

    async def cancel(
        self, caller: callers.Caller, request: gateway_pb2.CancelJobRequest
    ) -> gateway_pb2.CancelJobResponse:
        """Raises errors.InvalidArgument, NotFound, FailedPrecondition, Unavailable."""
        job = await self._ledger.cancel_job(caller, refusals.job_id(request.job_id))
        return gateway_pb2.CancelJobResponse(job=job)

    async def list(self, caller: callers.Caller, request: gateway_pb2.ListJobsRequest) -> gateway_pb2.ListJobsResponse:
        """Raises errors.InvalidArgument (the scheduler judges page_token), Unavailable."""
        bad = violations.Violations()
        request.page_size = requests.check_page_size(request.page_size, bad)
        requests.check_labels(request.labels, bad)
        for index, state in enumerate(request.states):
            if state not in _STATES:
                bad.add(f"states[{index}]", f"{state} is not a JobState to filter by")
        refusals.raise_if_any(bad)
        listed = await self._ledger.list_jobs(caller, request)
        return gateway_pb2.ListJobsResponse(jobs=listed.jobs, next_page_token=listed.next_page_token)


class Workloads:
    """The workloads that jobs may name."""

    def __init__(self, registry: workloads.Registry) -> None:
        self._registry = registry

    async def list(self, request: gateway_pb2.ListWorkloadsRequest) -> gateway_pb2.ListWorkloadsResponse:
        """Raises errors.InvalidArgument, Unavailable."""
        bad = violations.Violations()
        size = requests.check_page_size(request.page_size, bad)
        refusals.raise_if_any(bad)
        known = await self._registry.all()
        try:
            names, token = pages.page(list(known), size, request.page_token)
        except pages.BadPageToken as error:
            raise refusals.one("page_token", str(error)) from error
        return gateway_pb2.ListWorkloadsResponse(workloads=[known[n] for n in names], next_page_token=token)
