"""Why a batch cannot be done here."""

from __future__ import annotations

from podium.common.v1 import job_pb2
from podium_runtime import logs

log = logs.get_logger(__name__)


class Failure(Exception):
    """A batch that cannot be done here, as the scheduler hears it. `retryable`: another attempt may fare better."""

    def __init__(self, reason: job_pb2.BatchFailureReason, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


def internal(error: Exception) -> Failure:
    """What nobody foresaw, for the one batch that met it."""
    log.error("batch_error", exc_info=error)
    message = f"{type(error).__name__}: {error}"[:500]
    return Failure(job_pb2.BATCH_FAILURE_REASON_INTERNAL, message)
