"""What the feeder is told before it feeds, and what it hands out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from podium_scheduler.domain import fairness


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to feed, and where to, at one moment."""

    waiting: Sequence[str]
    """Workloads of which something waits in the ledger."""
    credits: Mapping[str, int]
    """Of all open sessions, by workload."""
    in_flight: Mapping[str, int]
    """Items of batches that are QUEUED or LEASED, by workload."""
    queued: Collection[str]
    """Workloads of which something is QUEUED."""
    alone: Mapping[str, fairness.Candidate]
    """By workload: the job that nobody has to share with, where only one waits."""
    weights: Mapping[str, int]
    """Of the apps of these jobs."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The next batch of a job is for this session, under this token."""

    job_id: UUID
    lease_token: bytes
    session_id: UUID
