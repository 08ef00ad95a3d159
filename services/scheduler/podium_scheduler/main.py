"""Wires the scheduler together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta

from podium.common.v1 import workload_pb2
from podium.operator.v1 import operator_pb2_grpc
from podium.scheduler.v1 import scheduler_pb2_grpc
from podium_runtime import auth, clock, errors, grpc_server, heap, ids, lifecycle, logs, metrics, supervision
from podium_runtime import settings as runtime_settings
from podium_scheduler import pod_wiring, readiness, storage
from podium_scheduler.adapters import pods_file, registry_file
from podium_scheduler.adapters.grpc import operator_servicer, scheduler_servicer, worker_servicer, worker_wire
from podium_scheduler.adapters.sql import (
    due_ledger,
    ledger_watch,
    operator_ledger,
    requeue_ledger,
)
from podium_scheduler.app import (
    admission,
    assembler,
    assigner,
    autoscaler,
    cold_starts,
    completer,
    consumer_keeper,
    consumption,
    deduplication,
    demand,
    desires,
    dispatcher,
    draining,
    embedding,
    feeder,
    handover,
    janitor,
    job_costs,
    jobs_of_apps,
    join_tokens,
    leader,
    lookout,
    lost_results,
    model_loads,
    outlook,
    placer,
    pod_janitor,
    pod_keeper,
    pod_uses,
    pressure,
    queue_metrics,
    reconciler,
    remembering,
    requeueing,
    rescuer,
    returned_results,
    revocation,
    session_keeper,
    session_lives,
    shedder,
    straight,
    throughputs,
    tight_room,
    unservable,
    wakers,
    worker_frames,
    worker_sessions,
)
from podium_scheduler.domain import batches, room
from podium_scheduler.settings import SchedulerSettings

log = logs.get_logger(__name__)
_START_PATIENCE_S = 0.5
# Results of the batches in hand, as they pass through.
_KEPT_BYTES = 64 * 1024 * 1024


def main() -> None:
    """`python -m podium_scheduler`."""
    settings = runtime_settings.load(SchedulerSettings)
    logs.configure(settings.log_level, settings.log_format, "scheduler")
    workloads = _registry(settings)
    heap.keep_freed(_KEPT_BYTES)
    lifecycle.run_service(lambda stop: _serve(settings, workloads, stop))


async def _serve(
    settings: SchedulerSettings, workloads: Mapping[str, workload_pb2.Workload], stop: asyncio.Event
) -> None:
    try:
        fleet = pod_wiring.fleet(settings, clock.SystemClock())
    except (pods_file.PodsFileError, pod_wiring.CredentialMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    await Scheduler(settings, workloads, fleet).serve(stop)


def _registry(settings: SchedulerSettings) -> Mapping[str, workload_pb2.Workload]:
    try:
        found = registry_file.load(settings.registry) if settings.registry else registry_file.load_default()
    except registry_file.RegistryError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return found.workloads


class Scheduler:
    """One replica."""

    def __init__(
        self,
        settings: SchedulerSettings,
        workloads: Mapping[str, workload_pb2.Workload],
        fleet: pod_wiring.Fleet | None = None,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._workloads = workloads
        self._ids = ids.SystemIds()
        self._stores = stores = storage.open_stores(settings)
        retries = batches.RetryPolicy(max_attempts=settings.max_attempts)
        self._wakers = wakers.Wakers(stores.wakeups, stores.leadership)
        self._registry = worker_sessions.SessionRegistry()
        self._sizes = {name: room.sizes(w.dimension, w.batch.max_items) for name, w in workloads.items()}
        self._lost = lost_results.LostResults(stores.batches, stores.buffer, self._wakers)
        self._gauge = pressure.PressureGauge(stores.buffer)
        self._revocation = revocation.Revocation(self._registry, stores.wakeups)
        self._watch = ledger_watch.LedgerWatch(stores.database)
        self._keeper = session_keeper.SessionKeeper(
            self._registry,
            stores.sessions,
            stores.batches,
            settings.heartbeat_s,
            settings.lease_ttl_s,
            clock.SystemClock(),
        )
        self._recovery = session_lives.LeaseRecovery(stores.batches, self._wakers, retries)
        self._completer = completer.Completer(stores.batches, stores.buffer, stores.wakeups, self._wakers.dispatcher)
        known = deduplication.Deduplication(stores.items, workloads, self._registry)
        self._assigner = assigner.Assigner(self._registry, known)
        self._handover = handover.Handover(
            self._registry, stores.batches, self._assigner, stores.wakeups, self._ids, clock.SystemClock()
        )
        self._straight = straight.Straight(self._handover, self._wakers, self._sizes)
        self._remembering = remembering.Remembering(stores.items, self._completer, clock.SystemClock())
        self._policy = retries
        self._uses = pod_uses.PodUses(stores.costs)
        self._loads = model_loads.ModelLoads(stores.loads, workloads, self._uses)
        self._speeds = throughputs.Throughputs(stores.scaling)
        self._frames = worker_frames.WorkerFrames(
            workloads,
            self._completer,
            retries,
            self._wakers.dispatcher,
            settings.conduct,
            self._loads,
            self._speeds,
            self._uses,
            self._remembering,
        )
        self._demand = demand.Demand(stores.asked, self._wakers, clock.SystemClock())
        self._starts = cold_starts.ColdStarts(
            workloads, stores.loads, stores.sessions, clock.SystemClock(), stores.pods if fleet else None
        )
        self._desires = desires.Desires(self._registry, stores.wakeups)
        self._draining = draining.Draining(self._registry, stores.sessions, stores.wakeups)
        self._leader = leader.Leader(
            stores.leadership,
            stores.wakeups,
            self._leader_loops,
            (
                queue_metrics.forget,
                consumer_keeper.forget,
                placer.forget,
                pod_keeper.forget,
                pod_janitor.forget,
                autoscaler.forget,
                self._straight.close,
            ),
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, then lets go of the workers, the lead and the connections, in this order."""
        settings = self._settings
        server, worker_service = self._server()
        await self._bootstrap(stop)
        bound = await server.start()
        if self._fleet is not None:
            self._fleet.scheduler_address = bound
        listener = asyncio.create_task(self._stores.wakeups.listen(self._heard), name="wakeups")
        settler = asyncio.create_task(self._completer.run(), name="completer")
        rememberer = asyncio.create_task(self._remembering.run(), name="remembering")
        lifecycle.write_ready_file(
            settings.ready_file,
            {
                "service": "scheduler",
                "pid": os.getpid(),
                "grpc": bound,
                "metrics": metrics.serve(settings.metrics_listen),
            },
        )
        log.info("scheduler_started", grpc=bound, replica_id=settings.replica_id)
        try:
            watch = supervision.Watch([listener, settler, rememberer])
            await supervision.Supervisor([*self._loops(server), watch]).run(stop)
        finally:
            worker_service.stop()
            await server.stop(settings.shutdown_grace_s)
            await self._leader.close()
            for task in (listener, settler, rememberer):
                task.cancel()
            await asyncio.gather(listener, settler, rememberer, return_exceptions=True)
            if self._fleet is not None:
                await self._fleet.close()
            await self._stores.buffer.close()
            await self._watch.close()
            await self._stores.database.close()
            log.info("scheduler_stopped")

    def _server(self) -> tuple[grpc_server.Server, worker_servicer.WorkerServicer]:
        settings, stores = self._settings, self._stores
        verify = {
            "podium.scheduler.v1.SchedulerService": auth.shared_secret("internal", settings.internal_token),
            "podium.worker.v1.WorkerService": _workers(settings.join_token),
            "podium.operator.v1.OperatorService": auth.shared_secret("operator", settings.operator_token),
        }
        server = grpc_server.Server(
            settings.scheduler_listen,
            authenticator=auth.Authenticator(verify, "anybody" if settings.insecure else None),
            insecure=settings.insecure,
            tls=settings.tls,
            max_message_bytes=128 << 20,
        )
        admit = admission.Admission(stores.jobs, self._workloads, self._gauge, self._wakers, self._ids, self._straight)
        jobs = jobs_of_apps.JobsOfApps(stores.jobs, stores.buffer, self._lost, self._revocation, settings.retention)
        consumers = consumption.Consumption(stores.consumers, stores.news, self._ids)
        failed = requeue_ledger.RequeueLedger(stores.database, settings.retention)
        requeues = requeueing.Requeueing(failed, stores.wakeups, self._wakers)
        tokens = join_tokens.JoinTokens(stores.pods)
        workers = worker_servicer.WorkerServicer(self._lives(), self._frames, self._cadence(), tokens)
        server.add(
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server,
            scheduler_servicer.SchedulerServicer(
                admit,
                jobs,
                consumers,
                self._gauge,
                self._workloads,
                job_costs.JobCosts(stores.costs),
                self._embedding(),
            ),
            "podium.scheduler.v1.SchedulerService",
        )
        server.add(worker_wire.add_to_server, workers, worker_wire.SERVICE_NAME)
        server.add(
            operator_pb2_grpc.add_OperatorServiceServicer_to_server,
            operator_servicer.OperatorServicer(
                operator_ledger.OperatorLedger(stores.database),
                self._draining,
                requeues,
                stores.loads,
                pod_wiring.of_operators(self._fleet, stores, self._wakers, self._draining, self._ids),
                job_costs.JobCosts(stores.costs),
                self._workloads,
            ),
            "podium.operator.v1.OperatorService",
        )
        return server, workers

    def _embedding(self) -> embedding.Embedding:
        return embedding.Embedding(
            self._registry, self._workloads, self._demand, self._starts, self._settings.session_calls
        )

    def _lives(self) -> session_lives.SessionLives:
        return session_lives.SessionLives(
            self._registry,
            self._stores.sessions,
            self._wakers,
            self._recovery,
            self._workloads,
            self._settings.replica_id,
            timedelta(seconds=self._settings.resume_grace_s),
            self._ids,
        )

    def _cadence(self) -> worker_servicer.Cadence:
        settings = self._settings
        return worker_servicer.Cadence(
            heartbeat=timedelta(seconds=settings.heartbeat_s),
            lease_ttl=timedelta(seconds=settings.lease_ttl_s),
            resume_grace=timedelta(seconds=settings.resume_grace_s),
            max_chunk_bytes=settings.max_chunk_bytes,
        )

    async def _bootstrap(self, stop: asyncio.Event) -> None:
        """Makes what every installation has; waits for Postgres and Redis where they are away."""
        while not stop.is_set():
            try:
                return await self._make_first_things()
            except (errors.Unavailable, errors.ResourceExhausted) as error:
                log.warning("start_waits", reason=error.reason)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_START_PATIENCE_S):
                        await stop.wait()

    async def _make_first_things(self) -> None:
        """The first app and its token, so that a fresh installation can be used; the work streams."""
        settings = self._settings
        await self._stores.jobs.put_app(settings.bootstrap_app)
        if settings.bootstrap_app_token:
            await self._stores.jobs.put_token(
                uuid.uuid4(),
                settings.bootstrap_app,
                admission.token_hash(settings.bootstrap_app_token),
                "PODIUM_BOOTSTRAP_APP_TOKEN",
            )
        try:
            await self._stores.buffer.ensure_groups(sorted(self._workloads))
        except errors.ResourceExhausted:
            # Full, but others may be reading it empty; whoever reads a stream makes its group.
            log.warning("buffer_is_full_at_start")

    async def _heard(self, message: Mapping[str, object]) -> None:
        kind = message.get("kind")
        if kind == "feed":
            self._wakers.feeder.set()
        elif kind == "work":
            self._wakers.dispatcher.set()
        elif kind == "place":
            self._wakers.place_here()
        elif kind == "keep":
            self._wakers.keep_here()
        elif kind == "scale":
            self._wakers.autoscaler.set()
        elif kind == "desire":
            self._desires.heard(message)
        elif kind == "revoke":
            self._revocation.heard(message)
        elif kind == "leads":
            self._keeper.leader_heard()
        elif kind == "drain":
            self._draining.heard(message)

    def _loops(self, server: grpc_server.Server) -> Sequence[supervision.Loop]:
        stores = self._stores
        return [
            self._watch,
            readiness.Readiness(server, [self._watch, stores.buffer]),
            self._gauge,
            dispatcher.Dispatcher(
                self._registry,
                stores.batches,
                stores.sessions,
                stores.buffer,
                stores.wakeups,
                self._wakers,
                self._ids,
                self._assigner,
                self._handover,
            ),
            self._keeper,
            self._loads,
            self._speeds,
            self._uses,
            self._demand,
            self._starts,
            stores.news,
            self._leader,
        ]

    def _leader_loops(self, term: int) -> Sequence[supervision.Loop]:
        """With ledgers of their own: nothing that they write commits under another term."""
        stores = self._stores.under(term, self._leader.wake.set)
        lost = lost_results.LostResults(stores.batches, stores.buffer, self._wakers)
        returned = returned_results.ReturnedResults(stores.archive, stores.buffer)
        settings, names = self._settings, sorted(self._workloads)
        coming = outlook.Outlook() if self._fleet else None
        return [
            feeder.Feeder(
                stores.feeds,
                stores.batches,
                stores.buffer,
                self._wakers,
                self._handover,
                self._straight,
                timedelta(seconds=settings.aging_s),
                self._sizes,
            ),
            *self._what_is_due(stores),
            reconciler.Reconciler(stores.batches, stores.cluster, stores.buffer, lost, returned, names, self._ids),
            shedder.Shedder(stores.batches, stores.holdings, stores.buffer, stores.buffer, self._wakers, self._sizes),
            unservable.Unservable(
                stores.batches,
                stores.sessions,
                stores.scaling,
                stores.wakeups,
                clock.SystemClock(),
                settings.unservable_patience_s,
                coming,
            ),
            assembler.Assembler(
                stores.items,
                stores.buffer,
                stores.buffer,
                stores.holdings,
                stores.wakeups,
                self._wakers,
                self._workloads,
                self._sizes,
                settings.max_chunk_bytes,
            ),
            placer.Placer(
                stores.batches,
                stores.sessions,
                stores.loads,
                self._desires,
                self._wakers,
                self._workloads,
                clock.SystemClock(),
                stores.asked,
            ),
            queue_metrics.QueueMetrics(stores.batches, stores.sessions, stores.buffer, names, clock.SystemClock()),
            pod_janitor.PodJanitor(
                stores.pods,
                [provider.name for provider in self._fleet.renting] if self._fleet else [],
                timedelta(seconds=settings.job_retention_s),
            ),
            *(
                pod_wiring.loops(
                    self._fleet,
                    stores,
                    self._workloads,
                    self._wakers,
                    self._draining,
                    self._ids,
                    coming,
                    tight_room.TightRoom(self._gauge, stores.holdings, self._sizes),
                )
                if self._fleet and coming
                else ()
            ),
        ]

    def _what_is_due(self, stores: storage.Stores) -> list[supervision.Loop]:
        """The loops that have to do when a time has come, and the lookout that wakes them."""
        settings = self._settings
        recovery = session_lives.LeaseRecovery(stores.batches, self._wakers, self._policy)
        rescue = rescuer.Rescuer(stores.sessions, recovery)
        clean = janitor.Janitor(
            stores.jobs,
            stores.archive,
            stores.sessions,
            stores.buffer,
            self._revocation,
            janitor.Retention(settings.retention, timedelta(seconds=settings.job_retention_s)),
            stores.items,
        )
        keep = consumer_keeper.ConsumerKeeper(
            stores.consumers, stores.news, timedelta(seconds=settings.consumer_group_retention_s)
        )
        due = due_ledger.DueLedger(stores.database)
        watch = lookout.Lookout(
            due, feeder=self._wakers.feeder, rescuer=rescue.wake, janitor=clean.wake, consumer_keeper=keep.wake
        )
        return [rescue, clean, keep, watch]


def _workers(join_token: str | None) -> auth.Verify:
    """Who may call WorkerService: whoever has the shared token, and a pod's worker with the pod's own token."""
    shared = auth.shared_secret("join", join_token)

    async def verify(token: str) -> str:
        try:
            return await shared(token)
        except errors.Unauthenticated:
            if not join_tokens.looks_like_one(token):
                raise
            return worker_servicer.POD

    return verify
