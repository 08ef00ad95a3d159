"""Puts the servicer on a server, with two serializers of our own.

StreamResults and ConsumeResults write bytes that are serialized already. And a request that does not parse, a
text that is not UTF-8 for one, reaches the handler, so that it is refused like any other bad request and
after the token was looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf import message

from podium.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from podium_gateway.adapters import servicer
from podium_runtime import errors

SERVICE_NAME = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name
RELAYED = frozenset({"StreamResults", "ConsumeResults"})
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a request that does not parse."""

    why: str


def add_to_server(service: servicer.GatewayServicer, server: grpc.aio.Server) -> None:
    """Registers GatewayService."""
    recorder = _Recorder()
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(service, recorder)  # type: ignore[arg-type]
    handlers = {name: _with_serializers(name, handler) for name, handler in recorder.handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))


def _with_serializers(name: str, handler: Handler) -> Handler:
    parse = _lenient(cast(Behaviour, handler.request_deserializer))
    serialize = _as_it_is if name in RELAYED else handler.response_serializer
    if handler.request_streaming:
        frames = _strict_stream(cast(Behaviour, handler.stream_stream))
        return grpc.stream_stream_rpc_method_handler(frames, parse, serialize)
    if handler.response_streaming:
        stream = _strict(cast(Behaviour, handler.unary_stream))
        return grpc.unary_stream_rpc_method_handler(stream, parse, serialize)
    unary = _strict(cast(Behaviour, handler.unary_unary))
    return grpc.unary_unary_rpc_method_handler(unary, parse, handler.response_serializer)


def _lenient(parse: Behaviour) -> Behaviour:
    def deserialize(data: bytes) -> Any:
        try:
            return parse(data)
        except message.DecodeError as error:
            return Malformed(str(error))

    return deserialize


def _strict(inner: Behaviour) -> Behaviour:
    async def behaviour(request: Any, context: servicer.Context) -> Any:
        if isinstance(request, Malformed):
            raise errors.InvalidArgument([errors.Violation("", request.why)], reason="MALFORMED_REQUEST")
        return await inner(request, context)

    return behaviour


def _strict_stream(inner: Behaviour) -> Behaviour:
    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, Malformed):
                raise errors.InvalidArgument([errors.Violation("", request.why)], reason="MALFORMED_REQUEST")
            yield request

    async def behaviour(requests: AsyncIterator[Any], context: servicer.Context) -> Any:
        return await inner(checked(requests), context)

    return behaviour


def _as_it_is(data: bytes) -> bytes:
    return data


class _Recorder:
    """Stands in for a server to get at the generated handlers."""

    def __init__(self) -> None:
        self.handlers: Mapping[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Not needed: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
