"""The scheduler's settings, from PODIUM_... variables."""

from __future__ import annotations

import socket
import uuid
from datetime import timedelta
from pathlib import Path

import pydantic

from podium_runtime.settings import ServiceSettings
from podium_scheduler.domain import quarantine


class RegistrySettings(ServiceSettings):
    """What it takes to read the registry, and no more: an image build has nothing else."""

    registry: Path | None = None
    """The registry of workloads; unset takes the one that is shipped."""


class SchedulerSettings(RegistrySettings):
    """One frozen object, built in `main`."""

    postgres_url: str
    """SQLAlchemy URL, `postgresql+asyncpg://user:password@host/database`; plain `postgresql://` is understood."""
    redis_url: str
    """`redis://`, `rediss://` or `unix://` URL."""
    redis_prefix: str = "podium"
    """First part of every key; the gateways must use the same."""
    scheduler_listen: str = "127.0.0.1:0"
    replica_id: str = pydantic.Field(default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")
    postgres_pool_size: int = pydantic.Field(default=10, ge=2, le=100)
    internal_token: str | None = None
    """What gateways present."""
    join_token: str | None = None
    """What workers present."""
    operator_token: str | None = None
    """What operators present."""
    bootstrap_app: str = "default"
    """App that exists from the start."""
    bootstrap_app_token: str | None = None
    """Token of that app; only its hash is kept."""
    heartbeat_s: float = pydantic.Field(default=1.0, gt=0)
    """How often workers send Status, in seconds."""
    lease_ttl_s: float = pydantic.Field(default=10.0, gt=0)
    """How long a session and its leases last without a Status, in seconds."""
    resume_grace_s: float = pydantic.Field(default=1.5, ge=0)
    """How long a broken stream may last before its batches go to others, in seconds."""
    session_calls: int = pydantic.Field(default=128, ge=1, le=512)
    """Interactive calls of one worker in flight; more are refused."""
    max_attempts: int = pydantic.Field(default=5, ge=1, le=100)
    """Attempts of a batch before it is given up."""
    unservable_patience_s: float = pydantic.Field(default=20.0, ge=0)
    """How long batches wait when no worker can load their model before they fail, in seconds."""
    quarantine_refusals: int = pydantic.Field(default=3, ge=1)
    """Refused results of a worker within `quarantine_window_s` after which it gets no more batches."""
    quarantine_window_s: float = pydantic.Field(default=60.0, gt=0)
    quarantine_s: float = pydantic.Field(default=60.0, ge=0)
    """How long that lasts at least, in seconds; then its canaries must pass."""
    aging_s: float = pydantic.Field(default=600.0, gt=0)
    """Waiting time that lifts a job by one priority, in seconds."""
    consumer_lease_s: float = pydantic.Field(default=10.0, gt=0)
    """How long a consumer keeps its deliveries when its gateway is not heard from, in seconds."""
    consumer_group_retention_s: float = pydantic.Field(default=7 * 86_400.0, gt=0)
    """How long a consumer group that nobody uses is kept, and holds results back, in seconds."""
    result_retention_s: float = pydantic.Field(default=7 * 86_400.0, gt=0)
    """How long the unread results of a finished job are kept, in seconds."""
    job_retention_s: float = pydantic.Field(default=30 * 86_400.0, gt=0)
    """How long the record of a finished job is kept, in seconds; no shorter than its results."""
    known_item_retention_s: float = pydantic.Field(default=7 * 86_400.0, gt=0)
    """How long the vectors of jobs with `deduplicate` are remembered for identical items, in seconds."""
    deduplication_patience_s: float = pydantic.Field(default=300.0, gt=0)
    """How long a batch waits at most for items that others compute, in seconds; then it computes them too."""
    pods: Path | None = None
    """Where pods are rented, and how the autoscaler decides: a YAML file. Unset: nobody rents any."""
    runpod_api_key: pydantic.SecretStr | None = None
    digitalocean_token: pydantic.SecretStr | None = None
    pod_token_ttl_s: float = pydantic.Field(default=3_600.0, gt=0)
    """From a pod's create call to the last moment at which its worker may register, in seconds."""
    max_chunk_bytes: int = pydantic.Field(default=1 << 20, ge=64 << 10, le=4 << 20)
    """Largest `vectors` of a result chunk."""

    @pydantic.field_validator("postgres_url")
    @classmethod
    def _driver(cls, value: str) -> str:
        for plain in ("postgresql://", "postgres://"):
            if value.startswith(plain):
                return "postgresql+asyncpg://" + value.removeprefix(plain)
        return value

    @pydantic.model_validator(mode="after")
    def _tokens(self) -> SchedulerSettings:
        missing = [n for n in ("internal_token", "join_token", "operator_token") if not getattr(self, n)]
        if missing and not self.insecure:
            names = ", ".join(f"PODIUM_{n.upper()}" for n in missing)
            raise ValueError(f"set {names}, or PODIUM_INSECURE=1 to serve loopback without tokens")
        return self

    @pydantic.model_validator(mode="after")
    def _pods(self) -> SchedulerSettings:
        if self.pods is not None and self.insecure:
            raise ValueError("PODIUM_PODS needs tokens: pods join with their own; unset PODIUM_INSECURE")
        return self

    @pydantic.model_validator(mode="after")
    def _retentions(self) -> SchedulerSettings:
        if self.job_retention_s < self.result_retention_s:
            raise ValueError("PODIUM_JOB_RETENTION_S must be at least PODIUM_RESULT_RETENTION_S")
        return self

    @property
    def conduct(self) -> quarantine.Policy:
        """When a worker is quarantined."""
        return quarantine.Policy(self.quarantine_refusals, self.quarantine_window_s, self.quarantine_s)

    @property
    def retention(self) -> timedelta:
        """How long the unread results of a finished job are kept."""
        return timedelta(seconds=self.result_retention_s)
