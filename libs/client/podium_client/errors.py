"""What can go wrong, as types. Every error of the SDK is a PodiumError.

Errors from the service keep its gRPC code and the stable `reason` of its ErrorInfo, so that programs need not
parse messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from podium_client.results import Embeddings

STATUS_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field. `index` is the item's position in the caller's input, None when no item is meant."""

    field: str
    description: str
    index: int | None = None


class PodiumError(Exception):
    """Base of all. `code`: gRPC code, None when raised by the SDK itself; `reason`: the service's stable
    reason; `retry_after_s`: seconds after which the service invites another try, None when it does not."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class ConfigurationError(PodiumError):
    """No usable address, token or certificate."""


class InvalidInput(PodiumError):
    """The request is bad; `violations` name the fields (paths such as `texts.items[17].text`)."""

    def __init__(
        self,
        message: str,
        violations: Sequence[Violation] = (),
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "INVALID_ARGUMENT",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, metadata=metadata, retry_after_s=retry_after_s)
        self.violations = tuple(violations)


class Unauthenticated(PodiumError):
    """No token, or one that the service does not know."""


class PermissionDenied(PodiumError):
    """The token is known but may not do this."""


class NotFound(PodiumError):
    """No such thing, or not one of this app's."""


class JobNotFound(NotFound):
    """The app has no such job."""


class RequestIdConflict(PodiumError):
    """The request id was used before with another payload."""


class Overloaded(PodiumError):
    """A quota is full or the service sheds load; try again after `retry_after_s` seconds."""


class Unavailable(PodiumError):
    """The service cannot be reached or cannot serve now."""


class DeadlineExceeded(PodiumError):
    """The call took longer than its deadline."""


class ResultsReleased(PodiumError):
    """The results were acknowledged before and can no longer be read."""


class ResultsUnacknowledged(Overloaded):
    """What was read and may not be released holds back the rest of the job. Read with `release=True`, or with
    `results` and a cursor, or let somebody make room."""


class FailedPrecondition(PodiumError):
    """The thing is not in a state that allows this, for example cancelling a completed job."""


class NotImplementedByService(PodiumError):
    """This version of the service does not do that yet."""


class ServiceError(PodiumError):
    """The service failed in a way that it did not foresee."""


class ProtocolError(PodiumError):
    """The service sent something that breaks the contract: a gap, a bad checksum, a wrong dimension."""


class JobCancelled(PodiumError):
    """The job was cancelled before every item had its outcome."""


class JobExpired(PodiumError):
    """The job's deadline or retention ended before every item had its outcome."""


class ItemsFailed(PodiumError):
    """Some items have no vector. `result` carries everything, the vectors of the other items included."""

    def __init__(self, message: str, result: Embeddings) -> None:
        super().__init__(message, reason="ITEMS_FAILED")
        self.result = result


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The google.rpc details of one status, decoded."""

    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    violations: tuple[Violation, ...] = ()
    retry_after_s: float | None = None

    @property
    def empty(self) -> bool:
        """Whether there were none: the status was made by gRPC or a proxy, not by Podium."""
        return not self.reason and not self.violations and self.retry_after_s is None


RESULTS_UNACKNOWLEDGED = "RESULTS_UNACKNOWLEDGED"
_TOO_LARGE = "larger than max"
_BY_CODE: dict[grpc.StatusCode, type[PodiumError]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: RequestIdConflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.OUT_OF_RANGE: ResultsReleased,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedByService,
}


def decode_details(error: grpc.aio.AioRpcError | grpc.RpcError) -> ErrorDetails:
    """The google.rpc details in the trailers of a failed call; empty when there are none."""
    trailers = getattr(error, "trailing_metadata", lambda: None)() or ()
    raw = next((value for key, value in trailers if key == STATUS_DETAILS_KEY), None)
    if not isinstance(raw, bytes):
        return ErrorDetails()
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return ErrorDetails()
    reason, metadata, retry = "", (), None
    violations: tuple[Violation, ...] = ()
    info, bad, again = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            reason, metadata = info.reason, tuple(sorted(info.metadata.items()))
        elif detail.Unpack(bad):
            violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
        elif detail.Unpack(again):
            retry = again.retry_delay.ToTimedelta().total_seconds()
    return ErrorDetails(reason, metadata, violations, retry)


def from_rpc_error(error: grpc.RpcError) -> PodiumError:
    """The typed error for a failed call."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = (error.details() if hasattr(error, "details") else str(error)) or code.name
    details = decode_details(error)
    metadata = dict(details.metadata)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInput(text, details.violations, code=code, reason=details.reason or code.name, metadata=metadata)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.empty and _TOO_LARGE in text:
        # Said by gRPC before Podium has seen the request, and as true of the next try.
        return InvalidInput(
            f"the job is larger than the service takes in one message; make it smaller: {text}",
            code=code,
            reason="MESSAGE_TOO_LARGE",
        )
    kind = _BY_CODE.get(code, ServiceError)
    if kind is NotFound and details.reason.startswith("JOB"):
        kind = JobNotFound
    if details.reason == RESULTS_UNACKNOWLEDGED:
        kind = ResultsUnacknowledged
    return kind(
        text,
        code=code,
        reason=details.reason or code.name,
        metadata=metadata,
        retry_after_s=details.retry_after_s,
    )
