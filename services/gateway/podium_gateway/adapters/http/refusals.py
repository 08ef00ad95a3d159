"""From errors to answers as OpenAI's clients know them. The one table of HTTP statuses.

The body is `{"error": {"message", "type", "param", "code"}}`; its shape, and which headers the clients honour when they
decide about a retry (retry-after-ms, retry-after, x-should-retry), are those of the `openai` package. `x-podium-reason`
is the stable reason that gRPC calls have in their ErrorInfo.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from podium_runtime import errors

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_error"
CALLER_GONE = 499
"""Nobody is there to read it; for the metrics, as nginx has it."""

_STATUSES: dict[type[errors.PodiumError], tuple[int, str]] = {
    errors.InvalidArgument: (400, INVALID_REQUEST),
    errors.Unauthenticated: (401, INVALID_REQUEST),
    errors.PermissionDenied: (403, INVALID_REQUEST),
    errors.NotFound: (404, INVALID_REQUEST),
    # Not 409: clients try that again.
    errors.AlreadyExists: (400, INVALID_REQUEST),
    errors.FailedPrecondition: (400, INVALID_REQUEST),
    errors.OutOfRange: (400, INVALID_REQUEST),
    errors.ResourceExhausted: (429, RATE_LIMIT),
    errors.Internal: (500, SERVER_ERROR),
    errors.Unimplemented: (501, SERVER_ERROR),
    errors.Unavailable: (503, SERVER_ERROR),
    errors.DeadlineExceeded: (504, SERVER_ERROR),
}
# Where OpenAI has a code that programs look for; elsewhere it is our reason in lower case.
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_REASON_CODES = {"WORKLOAD_NOT_FOUND": "model_not_found"}
# Names of fields in an EmbedRequest, and what they are called here.
_FIELDS = (
    (re.compile(r"^texts\.items\[(\d+)\](\.text|\.token_ids)?$"), r"input[\1]"),
    (re.compile(r"^(texts(\.items)?|items)$"), "input"),
    (re.compile(r"^workload$"), "model"),
    (re.compile(r"^options\."), ""),
)


class Refusal(Exception):
    """What a caller is told instead of an answer. `kind` is the error's `type`; `param` names the bad field."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """As it goes out."""
        return Response(orjson.dumps({"error": self.error}), self.status, self.headers, "application/json")


def of(error: errors.PodiumError) -> Refusal:
    """The refusal that an error becomes."""
    status, kind = _STATUSES.get(type(error), (500, SERVER_ERROR))
    code = _REASON_CODES.get(error.reason) or _CODES.get(status) or error.reason.lower()
    param = None
    if isinstance(error, errors.InvalidArgument) and error.violations:
        param = error.violations[0].field or None
    elif code == "model_not_found":
        param = "model"
    headers = {"x-podium-reason": error.reason, **_headers(error, status)}
    return Refusal(status, error.message, kind=kind, code=code, param=param, headers=headers)


def _headers(error: errors.PodiumError, status: int) -> dict[str, str]:
    if isinstance(error, errors.ResourceExhausted | errors.Unavailable):
        # Whole seconds for everybody, milliseconds for those who know them.
        return {
            "retry-after": str(max(1, math.ceil(error.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(error.retry_after_s * 1000))),
        }
    if status == 401:
        return {"www-authenticate": "Bearer"}
    # Clients try again what ends with 5xx, unless they are told that it is of no use.
    return {"x-should-retry": "false"} if status == 501 else {}


def renamed(error: errors.InvalidArgument, *, single: bool) -> errors.InvalidArgument:
    """The error with the names that the fields have in an embeddings request. `single`: its input was one text."""
    violations = [errors.Violation(_name(v.field, single), v.description) for v in error.violations]
    return errors.InvalidArgument(violations, reason=error.reason, metadata=error.metadata)


def _name(path: str, single: bool) -> str:
    for pattern, name in _FIELDS:
        path = pattern.sub(name, path)
    return "input" if single and path == "input[0]" else path
