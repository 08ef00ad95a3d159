"""SubmitBatch: check and cut, then one call to the ledger."""

from __future__ import annotations

import asyncio

from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import admitted, callers, in_hand, ports, submissions, workloads
from podium_gateway.domain import workloads as rules_of_workloads
from podium_runtime import tracing

# A job up to this size is prepared on the event loop (a few milliseconds); a larger one in a thread.
INLINE_BYTES = 64 << 10
_RETRY_AFTER_S = 1.0
# What an item is as an object, beside its bytes: of short texts that is most of what they take.
_ITEM_BYTES = 128


class SubmitBatch:
    """Accepts jobs."""

    def __init__(
        self,
        ledger: ports.Ledger,
        registry: workloads.Registry,
        compress: ports.Compressor,
        meter: ports.Meter,
        remembered: admitted.AdmittedJobs,
        *,
        most_bytes: int,
    ) -> None:
        """`most_bytes`: of all requests in hand, 128 of each item counted beside what was sent."""
        self._ledger = ledger
        self._admitted = remembered
        self._registry = registry
        self._compress = compress
        self._meter = meter
        self._in_hand = in_hand.InHand(most_bytes, retry_after_s=_RETRY_AFTER_S)

    async def __call__(
        self, caller: callers.Caller, request: gateway_pb2.SubmitBatchRequest
    ) -> gateway_pb2.SubmitBatchResponse:
        """Raises errors.InvalidArgument, AlreadyExists, ResourceExhausted, Unavailable."""
        nbytes, kind = request.ByteSize(), request.WhichOneof("items")
        count = len(getattr(request, kind).items) if kind else 0
        with self._in_hand.share() as share:
            share.grow(nbytes + count * _ITEM_BYTES)
            return await self._submitted(caller, request, nbytes)

    async def _submitted(
        self, caller: callers.Caller, request: gateway_pb2.SubmitBatchRequest, nbytes: int
    ) -> gateway_pb2.SubmitBatchResponse:
        rules = await self._registry.find(request.workload) if request.workload else None
        admission = await self._prepare(request, nbytes, rules)
        admission.app_id = caller.app_id
        admission.traceparent = tracing.current()
        answer = await self._ledger.admit(caller, admission)
        if not answer.already_accepted:
            self._meter.admitted(answer.job.progress.items_total, len(admission.batches))
            self._admitted.note(caller.app_id, answer.job)
        return gateway_pb2.SubmitBatchResponse(job=answer.job, already_accepted=answer.already_accepted)

    async def _prepare(
        self, request: gateway_pb2.SubmitBatchRequest, nbytes: int, rules: rules_of_workloads.WorkloadRules | None
    ) -> scheduler_pb2.AdmitJobRequest:
        if nbytes <= INLINE_BYTES:
            return submissions.prepare(request, rules, self._compress)
        return await asyncio.to_thread(submissions.prepare, request, rules, self._compress)
