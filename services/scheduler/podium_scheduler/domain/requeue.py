"""Whether an operator may put a failed batch back into the queue, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from podium_scheduler.domain import batches, jobs


class Refusal(StrEnum):
    """Why a batch stays as it is. The names are reasons that callers see."""

    BATCH_NOT_FAILED = "BATCH_NOT_FAILED"
    JOB_ENDED = "JOB_ENDED"
    RESULTS_EXPIRED = "RESULTS_EXPIRED"
    RESULTS_RELEASED = "RESULTS_RELEASED"

    @property
    def sentence(self) -> str:
        """For operators."""
        return _SENTENCES[self]


_SENTENCES = {
    Refusal.BATCH_NOT_FAILED: "only a failed batch can be requeued, and this one is not",
    Refusal.JOB_ENDED: "its job was cancelled or its deadline has passed; nobody would wait for the result",
    Refusal.RESULTS_EXPIRED: "the retention of its job's results has ended, so its texts are gone; submit them again",
    Refusal.RESULTS_RELEASED: "its app has acknowledged the failure, so its texts are gone; submit them again",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """A batch and its job, as the ledger has them."""

    batch: batches.State
    job: jobs.State
    has_payload: bool
    results_expired: bool
    deadline_passed: bool


def refusal(facts: Facts) -> Refusal | None:
    """None when the batch may run again."""
    if (facts.batch, batches.Event.REQUEUE) not in batches.TRANSITIONS:
        return Refusal.BATCH_NOT_FAILED
    if facts.job in (jobs.State.CANCELLED, jobs.State.EXPIRED) or facts.deadline_passed:
        return Refusal.JOB_ENDED
    if facts.results_expired:
        return Refusal.RESULTS_EXPIRED
    return None if facts.has_payload else Refusal.RESULTS_RELEASED
