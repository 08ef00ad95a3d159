"""Wires the gateway together. Nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

import grpc
import redis.asyncio
from redis import backoff
from redis.asyncio import retry

from podium_gateway.adapters import (
    compression,
    job_events,
    large_replies,
    metering,
    registration,
    result_store,
    scheduler_client,
    servicer,
)
from podium_gateway.adapters.http import guard
from podium_gateway.adapters.http import routes as http_routes
from podium_gateway.adapters.http import server as http_server
from podium_gateway.app import (
    admitted,
    authentication,
    consume,
    embed,
    embed_routes,
    embed_texts,
    jobs,
    readiness,
    results,
    submit,
    watch,
    workloads,
)
from podium_gateway.domain import vector_cache
from podium_gateway.settings import GatewaySettings
from podium_runtime import auth, channels, clock, grpc_server, heap, lifecycle, logs, metrics, settings, supervision

INSECURE_APP = "default"
# A read of results for each of some streams, as it passes through.
_KEPT_BYTES = 64 * 1024 * 1024


def main() -> None:
    """Runs the gateway until SIGTERM."""
    heap.keep_freed(_KEPT_BYTES)
    configured = settings.load(GatewaySettings)
    logs.configure(configured.log_level, configured.log_format, "gateway")

    async def serve(stop: asyncio.Event) -> None:
        await run(configured, stop)

    lifecycle.run_service(serve)


async def run(configured: GatewaySettings, stop: asyncio.Event) -> None:
    """Serves until `stop`. Raises supervision.LoopDied."""
    channel = channels.open_channel(
        configured.scheduler_address,
        tls=configured.tls,
        # A job that does not compress is a little larger on its way on than on its way in.
        max_message_bytes=2 * configured.gateway_max_message_bytes,
        # Safe to repeat, all of it: AdmitJob by its request id, the others by their meaning.
        retried=["podium.scheduler.v1.SchedulerService"],
    )
    client, wakeful = _redis(configured), _wake_up_redis(configured)
    async with channel, client, wakeful, contextlib.AsyncExitStack() as replicas:
        ledger = scheduler_client.SchedulerClient(channel, configured.internal_token)
        routes = embed_routes.Routes(
            [
                scheduler_client.EmbedReplica(
                    await replicas.enter_async_context(_replica_channel(configured, address)), configured.internal_token
                )
                for address in configured.scheduler_addresses
            ]
        )
        await _serve(configured, stop, ledger, routes, client, wakeful)


def _replica_channel(configured: GatewaySettings, address: str) -> grpc.aio.Channel:
    """To one replica, for interactive calls: what one replica lacks another may have, so which one is asked matters."""
    return channels.open_channel(
        address, tls=configured.tls, max_message_bytes=2 * configured.gateway_max_message_bytes
    )


def _redis(configured: GatewaySettings) -> redis.asyncio.Redis:
    """Few connections for any number of streams: a read is short, and waits for a connection when all are busy."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        configured.redis_url,
        parser_class=large_replies.Parser,
        # One more carries the wake-ups.
        max_connections=configured.redis_connections - 1,
        timeout=configured.redis_timeout_s,
        socket_timeout=configured.redis_timeout_s,
        # Over a restart of Redis, but not so long that a client would rather ask another gateway.
        retry=retry.Retry(backoff.ExponentialBackoff(cap=0.5, base=0.05), 3),
    )
    return redis.asyncio.Redis.from_pool(pool)


def _wake_up_redis(configured: GatewaySettings) -> redis.asyncio.Redis:
    """The wake-ups' own connection, which does not mend itself.

    One task listens on it while others subscribe, and redis-py would reconnect in whichever of them meets the error
    first, under the hands of the others. JobEvents begins a new life of it instead.
    """
    return redis.asyncio.Redis.from_url(
        configured.redis_url,
        socket_timeout=configured.redis_timeout_s,
        retry=retry.Retry(backoff.NoBackoff(), 0, supported_errors=()),
    )


async def _serve(
    configured: GatewaySettings,
    stop: asyncio.Event,
    ledger: scheduler_client.SchedulerClient,
    routes: embed_routes.Routes,
    client: redis.asyncio.Redis,
    wakeful: redis.asyncio.Redis,
) -> None:
    time, meter = clock.SystemClock(), metering.PrometheusMeter()
    registry, remembered = workloads.Registry(ledger, time), admitted.AdmittedJobs(time)
    store = result_store.RedisResultStore(client, configured.redis_prefix)
    events = job_events.JobEvents(wakeful, configured.redis_prefix)
    authenticator = _authenticator(configured, ledger, time, meter)
    server = grpc_server.Server(
        configured.gateway_listen,
        authenticator=authenticator,
        insecure=configured.insecure,
        tls=configured.tls,
        max_message_bytes=configured.gateway_max_message_bytes,
    )
    use_cases = servicer.UseCases(
        submit_batch=submit.SubmitBatch(
            ledger, registry, compression.lz4_frame, meter, remembered, most_bytes=configured.gateway_submit_bytes
        ),
        app_jobs=jobs.Jobs(ledger),
        workload_list=jobs.Workloads(registry),
        watch_job=watch.WatchJob(ledger, events, time),
        stream_results=results.StreamResults(ledger, store, events, time, meter, remembered),
        consume_results=consume.ConsumeResults(ledger, registry, store, events, time, meter),
        embed=_embed(configured, routes, registry, meter),
    )
    service = servicer.GatewayServicer(use_cases)
    server.add(registration.add_to_server, service, registration.SERVICE_NAME)
    ready = readiness.Readiness(registry, store, server.set_serving)
    http = _http(configured, use_cases.embed, registry, time, authenticator, ready)
    bound = {"grpc": await server.start(), **(http.start() if http else {})}
    announcer = asyncio.create_task(_announce(configured, ready, bound))
    loops: list[supervision.Loop] = [ready, events, *([supervision.Watch([http.task])] if http else [])]
    try:
        await supervision.Supervisor(loops).run(stop)
    finally:
        announcer.cancel()
        await asyncio.gather(announcer, return_exceptions=True)
        await server.set_serving(False)
        service.end_streams()
        grace_s = configured.shutdown_grace_s
        await asyncio.gather(server.stop(grace_s), *([http.stop(grace_s)] if http else []))


def _embed(
    configured: GatewaySettings,
    routes: embed_routes.Routes,
    registry: workloads.Registry,
    meter: metering.PrometheusMeter,
) -> embed.Embed:
    return embed.Embed(
        routes,
        registry,
        meter,
        vector_cache.VectorCache(configured.gateway_embed_cache_bytes),
        calls_per_app=configured.gateway_embed_calls,
        most_bytes=configured.gateway_embed_bytes,
        default_s=configured.gateway_embed_default_s,
    )


def _http(
    configured: GatewaySettings,
    interactive: embed.Embed,
    registry: workloads.Registry,
    time: clock.Clock,
    authenticator: auth.Authenticator,
    ready: readiness.Readiness,
) -> http_server.Server | None:
    """The OpenAI-compatible edge, when it is wanted."""
    if configured.gateway_http_listen is None:
        return None
    if configured.insecure:
        grpc_server.require_loopback(configured.gateway_http_listen)
    guarded = guard.Guard(authenticator, registration.SERVICE_NAME, configured.gateway_http_requests)
    limits = http_routes.Limits(
        body_bytes=configured.gateway_http_max_body_bytes,
        bodies_bytes=configured.gateway_http_bytes,
        read_s=configured.gateway_http_read_timeout_s,
        answer_s=configured.gateway_http_timeout_s,
    )
    routes = http_routes.Routes(
        embed_texts.EmbedTexts(interactive, registry, time), registry, time, guarded, limits, ready.ready.is_set
    )
    return http_server.Server(
        routes.application(),
        configured.gateway_http_listen,
        tls=configured.tls,
        patience_s=configured.gateway_http_read_timeout_s,
        end_requests=guarded.end,
    )


def _authenticator(
    configured: GatewaySettings,
    apps: scheduler_client.SchedulerClient,
    time: clock.Clock,
    meter: metering.PrometheusMeter,
) -> auth.Authenticator:
    cache = authentication.TokenCache(
        apps,
        time,
        meter,
        max_ttl_s=configured.gateway_auth_ttl_s,
        negative_ttl_s=configured.gateway_auth_negative_ttl_s,
        capacity=configured.gateway_auth_capacity,
    )
    return auth.Authenticator(
        {registration.SERVICE_NAME: cache.verify},
        insecure_principal=INSECURE_APP if configured.insecure else None,
    )


async def _announce(configured: GatewaySettings, ready: readiness.Readiness, bound: Mapping[str, str]) -> None:
    """Tells where everything listens, once the gateway can serve."""
    metrics_bound = metrics.serve(configured.metrics_listen)
    await ready.ready.wait()
    content = {"service": "gateway", "pid": os.getpid(), **bound, "metrics": metrics_bound}
    lifecycle.write_ready_file(configured.ready_file, content)
    logs.get_logger(__name__).info("ready", **content)
