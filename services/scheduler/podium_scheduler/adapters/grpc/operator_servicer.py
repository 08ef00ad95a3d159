"""OperatorService: what operators call, with grpcurl or the `podium` command."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection
from datetime import UTC, datetime

from google.protobuf import duration_pb2

from podium.operator.v1 import operator_pb2
from podium.worker.v1 import worker_pb2
from podium_runtime import errors
from podium_runtime.grpc_server import Context
from podium_scheduler.adapters.grpc import convert, operator_pods
from podium_scheduler.adapters.grpc.operator_requests import Check, page_token
from podium_scheduler.adapters.sql import load_ledger, operator_ledger
from podium_scheduler.app import draining, job_costs, pods_of_operators, records, requeueing

TOKEN_PREFIX = "pdm_"
_TOKEN_BYTES = 32


class OperatorServicer(operator_pods.PodCalls):
    """Checks and translates; the ledger does the rest. `workloads` are those that ListQueues always shows."""

    def __init__(
        self,
        ledger: operator_ledger.OperatorLedger,
        drains: draining.Draining,
        requeues: requeueing.Requeueing,
        loads: load_ledger.LoadLedger,
        pods: pods_of_operators.PodsOfOperators,
        costs: job_costs.JobCosts,
        workloads: Collection[str] = (),
    ) -> None:
        super().__init__(pods, workloads)
        self._ledger = ledger
        self._drains = drains
        self._requeues = requeues
        self._loads = loads
        self._costs = costs
        self._workloads = frozenset(workloads)

    async def CreateApp(
        self, request: operator_pb2.CreateAppRequest, context: Context
    ) -> operator_pb2.CreateAppResponse:
        check = Check()
        check.app(request.app, present=request.HasField("app"), least_weight=0)
        check.done()
        new = request.app
        app = await self._ledger.create_app(new.app_id, new.weight or 1, new.max_waiting_items)
        if app is None:
            raise errors.AlreadyExists(f"there is an app {new.app_id} already", reason="APP_EXISTS")
        return operator_pb2.CreateAppResponse(app=_app(app))

    async def ListApps(self, request: operator_pb2.ListAppsRequest, context: Context) -> operator_pb2.ListAppsResponse:
        check = Check()
        size = check.page_size(request.page_size)
        after = check.page_token(request.page_token, "apps")
        check.done()
        found = await self._ledger.list_apps(after[0] if after else "", size + 1)
        token = page_token([found[size - 1].app_id], "apps") if len(found) > size else ""
        return operator_pb2.ListAppsResponse(apps=[_app(a) for a in found[:size]], next_page_token=token)

    async def UpdateApp(
        self, request: operator_pb2.UpdateAppRequest, context: Context
    ) -> operator_pb2.UpdateAppResponse:
        check = Check()
        check.app(request.app, present=request.HasField("app"), least_weight=1)
        check.done()
        new = request.app
        app = await self._ledger.update_app(new.app_id, new.weight, new.max_waiting_items)
        if app is None:
            raise _no_app(new.app_id)
        return operator_pb2.UpdateAppResponse(app=_app(app))

    async def CreateAppToken(
        self, request: operator_pb2.CreateAppTokenRequest, context: Context
    ) -> operator_pb2.CreateAppTokenResponse:
        check = Check()
        check.app_id("app_id", request.app_id)
        check.description(request.description)
        check.done()
        token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        token_id = uuid.uuid4()
        digest = hashlib.sha256(token.encode()).digest()
        if not await self._ledger.create_token(token_id, request.app_id, digest, request.description):
            raise _no_app(request.app_id)
        return operator_pb2.CreateAppTokenResponse(token_id=str(token_id), token=token)

    async def RevokeAppToken(
        self, request: operator_pb2.RevokeAppTokenRequest, context: Context
    ) -> operator_pb2.RevokeAppTokenResponse:
        check = Check()
        token_id = check.uuid("token_id", request.token_id)
        check.done()
        if not await self._ledger.revoke_token(token_id):
            raise errors.NotFound(f"there is no token {token_id}", reason="TOKEN_NOT_FOUND")
        return operator_pb2.RevokeAppTokenResponse()

    async def ListWorkers(
        self, request: operator_pb2.ListWorkersRequest, context: Context
    ) -> operator_pb2.ListWorkersResponse:
        check = Check()
        size = check.page_size(request.page_size)
        after = check.page_token(request.page_token, "workers")
        position = check.uuid("page_token", after[0]) if after else None
        check.done()
        found = await self._ledger.list_workers(position, size + 1)
        token = page_token([str(found[size - 1].worker_id)], "workers") if len(found) > size else ""
        return operator_pb2.ListWorkersResponse(workers=[_worker(w) for w in found[:size]], next_page_token=token)

    async def GetWorker(
        self, request: operator_pb2.GetWorkerRequest, context: Context
    ) -> operator_pb2.GetWorkerResponse:
        check = Check()
        worker_id = check.uuid("worker_id", request.worker_id)
        check.done()
        worker = await self._ledger.worker(worker_id)
        if worker is None:
            raise errors.NotFound(f"no worker {worker_id} has a session", reason="WORKER_NOT_FOUND")
        return operator_pb2.GetWorkerResponse(worker=_worker(worker))

    async def ListModelLoads(
        self, request: operator_pb2.ListModelLoadsRequest, context: Context
    ) -> operator_pb2.ListModelLoadsResponse:
        check = Check()
        check.workload(request.workload)
        check.done()
        found = await self._loads.loads(request.workload)
        return operator_pb2.ListModelLoadsResponse(model_loads=[_model_load(load) for load in found])

    async def DrainWorker(
        self, request: operator_pb2.DrainWorkerRequest, context: Context
    ) -> operator_pb2.DrainWorkerResponse:
        check = Check()
        worker_id = check.uuid("worker_id", request.worker_id)
        check.done()
        known = await self._drains.drain(worker_id)
        worker = await self._ledger.worker(worker_id)
        if not known or worker is None:
            raise errors.NotFound(f"no worker {worker_id} has a session", reason="WORKER_NOT_FOUND")
        return operator_pb2.DrainWorkerResponse(worker=_worker(worker))

    async def ListQueues(
        self, request: operator_pb2.ListQueuesRequest, context: Context
    ) -> operator_pb2.ListQueuesResponse:
        found = {queue.workload: _queue(queue) for queue in await self._ledger.queues()}
        idle = {name: operator_pb2.Queue(workload=name, oldest_age=duration_pb2.Duration()) for name in self._workloads}
        queues = {**idle, **found}
        return operator_pb2.ListQueuesResponse(queues=[queues[name] for name in sorted(queues)])

    async def ListFailures(
        self, request: operator_pb2.ListFailuresRequest, context: Context
    ) -> operator_pb2.ListFailuresResponse:
        check = Check()
        size = check.page_size(request.page_size)
        check.workload(request.workload)
        listing = ("failures", request.workload)
        before = _moment(check, check.page_token(request.page_token, *listing))
        check.done()
        found = await self._ledger.failures(request.workload, before, size + 1)
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = page_token([last.finish_time.isoformat(), str(last.batch_id)], *listing)
        return operator_pb2.ListFailuresResponse(failures=[_failure(f) for f in found[:size]], next_page_token=token)

    async def RequeueBatch(
        self, request: operator_pb2.RequeueBatchRequest, context: Context
    ) -> operator_pb2.RequeueBatchResponse:
        await self._requeues.requeue(request.batch_id)
        return operator_pb2.RequeueBatchResponse()

    async def GetStats(self, request: operator_pb2.GetStatsRequest, context: Context) -> operator_pb2.GetStatsResponse:
        stats = await self._ledger.stats()
        now = datetime.now(UTC)
        today = await self._costs.since(now.replace(hour=0, minute=0, second=0, microsecond=0), now)
        return operator_pb2.GetStatsResponse(
            jobs_active=stats.jobs_active,
            items_waiting=stats.items_waiting,
            workers=stats.workers,
            leader_replica_id=stats.leader_replica_id,
            usd_today=today.bill.micro_usd / 1e6,
            usd_unattributed_today=today.unattributed_micro_usd / 1e6,
        )


def _no_app(app_id: str) -> errors.NotFound:
    return errors.NotFound(f"there is no app {app_id}", reason="APP_NOT_FOUND")


def _moment(check: Check, position: list[str] | None) -> tuple[datetime, int] | None:
    if position is None:
        return None
    try:
        moment, batch_id = position
        return datetime.fromisoformat(moment), int(batch_id)
    except ValueError:
        check.bad("page_token", "is no token of this listing; start again without one")
        return None


def _app(app: operator_ledger.App) -> operator_pb2.App:
    return operator_pb2.App(
        app_id=app.app_id,
        weight=app.weight,
        max_waiting_items=app.max_waiting_items,
        create_time=convert.timestamp(app.create_time),
    )


def _worker(worker: operator_ledger.Worker) -> operator_pb2.Worker:
    return operator_pb2.Worker(
        worker_id=str(worker.worker_id),
        session_id=str(worker.session_id),
        hostname=worker.hostname,
        version=worker.version,
        pod_id=worker.pod_id,
        replica_id=worker.replica_id,
        devices=worker_pb2.Hello.FromString(worker.hello).devices,
        status=worker_pb2.Status.FromString(worker.status),
        connect_time=convert.timestamp(worker.connect_time),
        heartbeat_time=convert.timestamp(worker.heartbeat_time),
        quarantine_reason=worker.quarantine_reason,
    )


def _model_load(load: records.MeasuredLoad) -> operator_pb2.ModelLoad:
    return operator_pb2.ModelLoad(
        workload=load.workload,
        device_name=load.device_name,
        load_count=load.load_count,
        mean_duration=convert.duration(load.mean_s),
        last_duration=convert.duration(load.last_s),
        memory_bytes=load.memory_bytes,
        last_time=convert.timestamp(load.last_time),
    )


def _queue(queue: operator_ledger.Queue) -> operator_pb2.Queue:
    age = duration_pb2.Duration()
    age.FromTimedelta(queue.oldest_age)
    return operator_pb2.Queue(
        workload=queue.workload,
        batches_pending=queue.batches_pending,
        batches_queued=queue.batches_queued,
        batches_leased=queue.batches_leased,
        oldest_age=age,
        credits=queue.credits,
        workers=queue.workers,
    )


def _failure(failure: operator_ledger.Failure) -> operator_pb2.Failure:
    return operator_pb2.Failure(
        batch_id=failure.batch_id,
        app_id=failure.app_id,
        job_id=str(failure.job_id),
        workload=failure.workload,
        first_item=failure.first_item,
        item_count=failure.item_count,
        reason=f"BATCH_FAILURE_REASON_{failure.reason.value}",
        message=failure.message,
        attempt=failure.attempt,
        finish_time=convert.timestamp(failure.finish_time),
    )
