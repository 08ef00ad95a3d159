"""GatewayService over gRPC: from calls to use cases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import grpc

from podium.gateway.v1 import gateway_pb2
from podium_gateway.adapters import metering
from podium_gateway.app import callers, consume, embed, jobs, results, submit, watch
from podium_runtime import auth, errors

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service can do."""

    submit_batch: submit.SubmitBatch
    app_jobs: jobs.Jobs
    workload_list: jobs.Workloads
    watch_job: watch.WatchJob
    stream_results: results.StreamResults
    consume_results: consume.ConsumeResults
    embed: embed.Embed


class GatewayServicer:
    """Implements podium.gateway.v1.GatewayService."""

    def __init__(self, use_cases: UseCases) -> None:
        self._do = use_cases
        self._streams: set[asyncio.Task[None]] = set()
        self._ending = False

    async def SubmitBatch(
        self, request: gateway_pb2.SubmitBatchRequest, context: Context
    ) -> gateway_pb2.SubmitBatchResponse:
        return await self._do.submit_batch(_caller(context), request)

    async def GetJob(self, request: gateway_pb2.GetJobRequest, context: Context) -> gateway_pb2.GetJobResponse:
        return await self._do.app_jobs.get(_caller(context), request)

    async def ListJobs(self, request: gateway_pb2.ListJobsRequest, context: Context) -> gateway_pb2.ListJobsResponse:
        return await self._do.app_jobs.list(_caller(context), request)

    async def CancelJob(self, request: gateway_pb2.CancelJobRequest, context: Context) -> gateway_pb2.CancelJobResponse:
        return await self._do.app_jobs.cancel(_caller(context), request)

    async def ListWorkloads(
        self, request: gateway_pb2.ListWorkloadsRequest, context: Context
    ) -> gateway_pb2.ListWorkloadsResponse:
        return await self._do.workload_list.list(request)

    async def WatchJob(self, request: gateway_pb2.WatchJobRequest, context: Context) -> None:
        await self._stream("WatchJob", self._do.watch_job(_caller(context), request), context)

    async def StreamResults(self, request: gateway_pb2.StreamResultsRequest, context: Context) -> None:
        await self._stream("StreamResults", self._do.stream_results(_caller(context), request), context)

    async def ConsumeResults(
        self, requests: AsyncIterator[gateway_pb2.ConsumeResultsRequest], context: Context
    ) -> None:
        await self._stream("ConsumeResults", self._do.consume_results(_caller(context), requests), context)

    async def Embed(self, request: gateway_pb2.EmbedRequest, context: Context) -> gateway_pb2.EmbedResponse:
        return await self._do.embed(_caller(context), request)

    async def _stream(self, method: str, messages: AsyncGenerator[Any, None], context: Context) -> None:
        """Writes one message at a time: the next is asked for when the transport has taken this one."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._streams.add(task)
        try:
            with metering.open_streams(method).track_inprogress():
                async with aclosing(messages):
                    async for message in messages:
                        await context.write(message)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            task.uncancel()
            raise errors.Unavailable("this gateway is shutting down", reason="SHUTTING_DOWN") from None
        finally:
            self._streams.discard(task)

    def end_streams(self) -> None:
        """Ends the open streams with UNAVAILABLE; they may last for hours, and their clients can resume."""
        self._ending = True
        for task in self._streams:
            task.cancel()


def _caller(context: Context) -> callers.Caller:
    return callers.Caller(auth.current_principal(), context.time_remaining)
