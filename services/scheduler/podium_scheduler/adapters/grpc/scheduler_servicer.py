"""SchedulerService: what the gateways call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf import duration_pb2

from podium.common.v1 import workload_pb2
from podium.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from podium_runtime.grpc_server import Context
from podium_scheduler.adapters.grpc import convert, scheduler_requests
from podium_scheduler.app import admission, consumption, embedding, job_costs, jobs_of_apps, pressure, records

_AUTH_TTL = timedelta(seconds=30)
_MAX_PAGE = 1_000
_DEFAULT_PAGE = 100


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Translates; decides nothing."""

    def __init__(
        self,
        admit: admission.Admission,
        jobs: jobs_of_apps.JobsOfApps,
        consumers: consumption.Consumption,
        gauge: pressure.PressureGauge,
        workloads: Mapping[str, workload_pb2.Workload],
        costs: job_costs.JobCosts,
        embed: embedding.Embedding,
    ) -> None:
        self._admission = admit
        self._jobs = jobs
        self._consumers = consumers
        self._gauge = gauge
        self._costs = costs
        self._embed = embed
        self._workloads = [workloads[name] for name in sorted(workloads)]

    async def AdmitJob(
        self, request: scheduler_pb2.AdmitJobRequest, context: Context
    ) -> scheduler_pb2.AdmitJobResponse:
        scheduler_requests.admit_job(request)
        job, existed = await self._admission.admit(convert.new_job(request))
        return scheduler_pb2.AdmitJobResponse(job=convert.job(job), already_accepted=existed)

    async def AuthenticateApp(
        self, request: scheduler_pb2.AuthenticateAppRequest, context: Context
    ) -> scheduler_pb2.AuthenticateAppResponse:
        app_id = await self._admission.authenticate(request.token_sha256)
        ttl = duration_pb2.Duration()
        ttl.FromTimedelta(_AUTH_TTL)
        return scheduler_pb2.AuthenticateAppResponse(app_id=app_id, ttl=ttl)

    async def GetJob(self, request: scheduler_pb2.GetJobRequest, context: Context) -> scheduler_pb2.GetJobResponse:
        scheduler_requests.job_of_app(request.app_id)
        job = await self._jobs.get(request.app_id, convert.uuid(request.job_id, "job_id"))
        found = convert.job(job)
        cost = await self._costs.of_job(job.job_id, datetime.now(UTC))
        if cost.gpu_seconds:
            found.cost.gpu_seconds, found.cost.usd = cost.gpu_seconds, cost.micro_usd / 1e6
        return scheduler_pb2.GetJobResponse(job=found)

    async def ListJobs(
        self, request: scheduler_pb2.ListJobsRequest, context: Context
    ) -> scheduler_pb2.ListJobsResponse:
        scheduler_requests.list_jobs(request)
        chosen = records.JobFilter(
            tuple(convert.job_state(s) for s in request.states), dict(request.labels), request.workload
        )
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        found, token = await self._jobs.list_page(request.app_id, chosen, size, request.page_token)
        return scheduler_pb2.ListJobsResponse(jobs=[convert.job(j) for j in found], next_page_token=token)

    async def CancelJob(
        self, request: scheduler_pb2.CancelJobRequest, context: Context
    ) -> scheduler_pb2.CancelJobResponse:
        scheduler_requests.job_of_app(request.app_id)
        job = await self._jobs.cancel(request.app_id, convert.uuid(request.job_id, "job_id"))
        return scheduler_pb2.CancelJobResponse(job=convert.job(job))

    async def ListBatches(
        self, request: scheduler_pb2.ListBatchesRequest, context: Context
    ) -> scheduler_pb2.ListBatchesResponse:
        scheduler_requests.item(request.app_id, "from_item", request.from_item)
        job_id = convert.uuid(request.job_id, "job_id")
        limit = min(request.limit or _DEFAULT_PAGE, _MAX_PAGE)
        found = await self._jobs.batches(request.app_id, job_id, request.from_item, limit)
        return scheduler_pb2.ListBatchesResponse(
            batches=[convert.batch(b) for b in found], acknowledge_results=self._gauge.asks_for_acknowledgement
        )

    async def ReportMissingResult(
        self, request: scheduler_pb2.ReportMissingResultRequest, context: Context
    ) -> scheduler_pb2.ReportMissingResultResponse:
        scheduler_requests.job_of_app(request.app_id)
        count = await self._jobs.recompute_lost(request.app_id, convert.uuid(request.job_id, "job_id"))
        return scheduler_pb2.ReportMissingResultResponse(batches_recomputed=count)

    async def ReleaseResults(
        self, request: scheduler_pb2.ReleaseResultsRequest, context: Context
    ) -> scheduler_pb2.ReleaseResultsResponse:
        scheduler_requests.item(request.app_id, "before_item", request.before_item)
        job_id = convert.uuid(request.job_id, "job_id")
        job = await self._jobs.release(request.app_id, job_id, request.before_item)
        return scheduler_pb2.ReleaseResultsResponse(job=convert.job(job))

    async def OpenConsumer(
        self, request: scheduler_pb2.OpenConsumerRequest, context: Context
    ) -> scheduler_pb2.OpenConsumerResponse:
        scheduler_requests.open_consumer(request)
        opened = await self._consumers.open(request.app_id, request.group, request.workload)
        ttl = duration_pb2.Duration()
        ttl.FromTimedelta(self._consumers.lease_ttl)
        return scheduler_pb2.OpenConsumerResponse(
            consumer_id=str(opened.consumer_id), group_id=opened.group_id, lease_ttl=ttl
        )

    async def AdvanceConsumer(
        self, request: scheduler_pb2.AdvanceConsumerRequest, context: Context
    ) -> scheduler_pb2.AdvanceConsumerResponse:
        advance = await self._consumers.advance(
            convert.uuid(request.consumer_id, "consumer_id"),
            request.acknowledged,
            request.returned,
            request.held,
            min(request.limit, _MAX_PAGE),
        )
        return scheduler_pb2.AdvanceConsumerResponse(
            deliveries=[convert.delivery(d) for d in advance.deliveries], filling=not advance.filled
        )

    async def CloseConsumer(
        self, request: scheduler_pb2.CloseConsumerRequest, context: Context
    ) -> scheduler_pb2.CloseConsumerResponse:
        await self._consumers.close(convert.uuid(request.consumer_id, "consumer_id"), request.acknowledged)
        return scheduler_pb2.CloseConsumerResponse()

    async def ListWorkloads(
        self, request: scheduler_pb2.ListWorkloadsRequest, context: Context
    ) -> scheduler_pb2.ListWorkloadsResponse:
        return scheduler_pb2.ListWorkloadsResponse(workloads=self._workloads)

    async def Embed(self, request: scheduler_pb2.EmbedRequest, context: Context) -> scheduler_pb2.EmbedResponse:
        scheduler_requests.embed(request)
        return await self._embed(request, context.time_remaining())
