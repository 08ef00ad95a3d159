"""The server every service builds on: auth, errors, health, reflection, TLS and a graceful end.

Promises: a handler's PodiumError becomes its rich status; anything else becomes INTERNAL without a word of the
traceback, which is logged here; cancellation passes through untouched. A write that fails because the connection broke
under it is a cancellation that gRPC has not told yet. Without tokens it binds loopback only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import Counter, Histogram

from podium_runtime import auth, errors, logs, settings, statuses, tracing

log = logs.get_logger(__name__)

HANDLED = Counter("podium_grpc_handled_total", "RPCs ended, by code.", ["service", "method", "code"])
SECONDS = Histogram("podium_grpc_handling_seconds", "Time from start to end of an RPC.", ["service", "method"])

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
DEFAULT_MESSAGE_BYTES = 64 << 20


class Server:
    """One gRPC server. Not serving (health) until told to."""

    def __init__(
        self,
        listen: str,
        *,
        authenticator: auth.Authenticator,
        insecure: bool = False,
        tls: settings.Tls | None = None,
        max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    ) -> None:
        if insecure:
            require_loopback(listen)
        self._listen = listen
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []
        self._server = grpc.aio.server(interceptors=[_Edge(authenticator)], options=server_options(max_message_bytes))

    def add(self, add_to_server: Callable[[Any, grpc.aio.Server], None], servicer: object, service_name: str) -> None:
        """Registers a servicer with its generated `add_..._to_server`."""
        add_to_server(servicer, self._server)
        self._services.append(service_name)

    def add_generic(self, handler: grpc.GenericRpcHandler) -> None:
        """Registers handlers with serializers of their own; they win over the servicer's."""
        self._server.add_generic_rpc_handlers((handler,))

    async def start(self) -> str:
        """Binds and starts; returns the bound address. Raises errors.Unavailable when the address is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        await self.set_serving(False)
        try:
            port = self._bind()
        except RuntimeError as error:
            raise errors.Unavailable(f"cannot listen on {self._listen}", reason="ADDRESS_IN_USE") from error
        await self._server.start()
        return self._listen if self._listen.startswith("unix:") else f"{self._listen.rsplit(':', 1)[0]}:{port}"

    def _bind(self) -> int:
        if self._tls is None or self._tls.cert is None or self._tls.key is None:
            return self._server.add_insecure_port(self._listen)
        pair = (settings.read_pem(self._tls.key), settings.read_pem(self._tls.cert))
        ca = settings.read_pem(self._tls.ca) if self._tls.ca is not None else None
        credentials = grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
        return self._server.add_secure_port(self._listen, credentials)

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of every service, and of the server as a whole ('')."""
        kind = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, kind)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls at once and gives those in flight `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def require_loopback(listen: str) -> None:
    """Of a server without tokens. Raises errors.FailedPrecondition."""
    if not settings.is_loopback(listen):
        raise errors.FailedPrecondition(
            f"PODIUM_INSECURE serves without tokens and so only on loopback, not on {listen}",
            reason="INSECURE_NEEDS_LOOPBACK",
        )


def server_options(max_message_bytes: int) -> Sequence[tuple[str, int]]:
    """Channel arguments of our servers; the keepalive notices half-open connections."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # See `channels`: a ping of gRPC's own, unanswered, would put keepalive off for a minute.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
    )


class _Edge(grpc.aio.ServerInterceptor):
    """Wraps every handler: trace, auth, errors, metrics."""

    def __init__(self, authenticator: auth.Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        streams = bool(handler.response_streaming)
        inner = cast(
            Behaviour,
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream,
        )
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[(bool(handler.request_streaming), streams)]
        outer = self._guard(inner, method, streams)
        return make(outer, handler.request_deserializer, handler.response_serializer)

    def _guard(self, inner: Behaviour, method: str, streams: bool) -> Behaviour:
        _, service, name = method.split("/")

        async def outer(request: Any, context: Context) -> Any:
            started = time.monotonic()
            code = grpc.StatusCode.CANCELLED
            try:
                tracing.adopt(context.invocation_metadata() or ())
                await self._authenticator.admit(method, context)
                response = await _run(inner, request, context, streams)
                code = grpc.StatusCode.OK
                return response
            except errors.PodiumError as error:
                code = statuses.code_of(error)
                await _abort(context, error)
            except grpc.aio.AbortError:
                code = grpc.StatusCode(context.code()) if context.code() else grpc.StatusCode.UNKNOWN
                raise
            except grpc.aio.InternalError as error:
                # gRPC's own: an operation on this call failed, as nobody is at its other end any more.
                log.debug("caller_gone", method=method, error=str(error))
                raise asyncio.CancelledError from error
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("rpc_crashed", method=method)
                await _abort(context, errors.Internal("internal error; the server's log has it under this trace"))
            finally:
                HANDLED.labels(service, name, code.name).inc()
                SECONDS.labels(service, name).observe(time.monotonic() - started)

        return outer


async def _run(inner: Behaviour, request: Any, context: Context, streams: bool) -> Any:
    result = inner(request, context)
    if streams and hasattr(result, "__aiter__"):
        async for message in cast(AsyncIterator[Any], result):
            await context.write(message)
        return None
    return await result


async def _abort(context: Context, error: errors.PodiumError) -> None:
    status = statuses.to_status(error)
    await context.abort(
        statuses.code_of(error),
        error.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
