"""PodiumError <-> gRPC status with google.rpc details. The one table of codes."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from podium_runtime import errors

DOMAIN = "podium"

CODES: dict[type[errors.PodiumError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_BY_CODE = {code: kind for kind, code in CODES.items()}


def code_of(error: errors.PodiumError) -> grpc.StatusCode:
    """The gRPC code of an error; INTERNAL for one that the table does not know."""
    return CODES.get(type(error), grpc.StatusCode.INTERNAL)


def to_status(error: errors.PodiumError) -> status_pb2.Status:
    """The rich status of an error: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    packed = [_pack(d) for d in details]
    if isinstance(error, errors.InvalidArgument):
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad))
    if isinstance(error, errors.ResourceExhausted | errors.Unavailable):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    code, _ = code_of(error).value
    return status_pb2.Status(code=code, message=error.message, details=packed)


def from_rpc_error(rpc_error: grpc.RpcError) -> errors.PodiumError:
    """The error that a peer's status tells of, details included, so that it can be passed on unchanged."""
    code = rpc_error.code() if isinstance(rpc_error, grpc.Call | grpc.aio.AioRpcError) else None
    message = str(rpc_error.details() or "") if isinstance(rpc_error, grpc.Call | grpc.aio.AioRpcError) else ""
    kind = _BY_CODE.get(code, errors.Internal) if code is not None else errors.Internal
    status = _rich_status(rpc_error)
    info = error_details_pb2.ErrorInfo()
    retry_after_s = 1.0
    violations: list[errors.Violation] = []
    for detail in status.details:
        _unpack(detail, info)
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if _unpack(detail, bad):
            violations = [errors.Violation(v.field, v.description) for v in bad.field_violations]
        if _unpack(detail, retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if kind is errors.InvalidArgument:
        return errors.InvalidArgument(
            violations or [errors.Violation("", message)], reason=info.reason, metadata=info.metadata
        )
    if kind is errors.ResourceExhausted or kind is errors.Unavailable:
        return kind(message, retry_after_s=retry_after_s, reason=info.reason, metadata=info.metadata)
    return kind(message, reason=info.reason, metadata=dict(info.metadata))


def _rich_status(rpc_error: grpc.RpcError) -> status_pb2.Status:
    if not isinstance(rpc_error, grpc.aio.AioRpcError):
        return status_pb2.Status(code=code_pb2.UNKNOWN)
    for key, value in rpc_error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code_pb2.UNKNOWN)


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _unpack(
    detail: any_pb2.Any,
    into: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> bool:
    return bool(detail.Unpack(into))
