"""Settings of the worker: environment variables beginning with PODIUM_."""

from __future__ import annotations

import os
from typing import Annotated, Any, Self

import pydantic
from pydantic_settings import NoDecode

from podium_runtime import settings
from podium_worker.domain import credits, progress

_MIB = 1024 * 1024


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class WorkerSettings(settings.ServiceSettings):
    """What a worker can be told. Lists are comma-separated."""

    scheduler_address: str = "127.0.0.1:50052"
    """`host:port` of the scheduler, or several of its replicas, comma-separated: one is tried after the other."""
    join_token: pydantic.SecretStr | None = None
    """What lets this worker join. Not needed with `insecure`."""
    workloads: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of the workloads to serve. Empty: any whose backend is here."""
    devices: str = "auto"
    """`auto` (GPUs if there are any, else the CPU), `cpu`, or indices of GPUs: `0,1`."""
    torch_threads: int = pydantic.Field(default=0, ge=0)
    """Threads of one computation on the CPU. 0: the cores, shared out over the executors."""
    pod_id: str = ""
    """Pod that this worker runs on, from its bootstrap."""
    reserve_s: float = pydantic.Field(default=0.5, gt=0)
    """Seconds of work to hold ready for each device, beyond the acknowledgement latency."""
    min_batches_in_hand: int = pydantic.Field(default=2, ge=1)
    """Batches of one workload in hand for each device, at least."""
    max_batches_in_hand: int = pydantic.Field(default=32, ge=1)
    """Batches of one workload in hand for each device, at most."""
    max_bytes_in_hand: int = pydantic.Field(default=256 * _MIB, ge=_MIB)
    """Payloads and unacknowledged results together, in bytes, about."""
    max_payload_bytes: int = pydantic.Field(default=128 * _MIB, ge=1024)
    """Largest payload of one batch once decompressed, in bytes."""
    stillness_limit_s: float = pydantic.Field(default=60.0, gt=0)
    """How long an executor with work may finish no micro-batch and no other step before it is killed, in seconds."""
    load_limit_s: float = pydantic.Field(default=600.0, gt=0)
    """How long an executor may take to start, and to load a model that names no `load_timeout`, in seconds."""
    connect_timeout_s: float = pydantic.Field(default=10.0, gt=0)
    """How long the scheduler may take to say Welcome."""

    _lists = pydantic.field_validator("workloads", mode="before")(_split)

    @pydantic.model_validator(mode="after")
    def _token_or_insecure(self) -> Self:
        if not self.insecure and self.join_token is None:
            raise ValueError("set PODIUM_JOIN_TOKEN, or PODIUM_INSECURE=1 on one machine")
        return self

    @pydantic.field_validator("devices")
    @classmethod
    def _known_devices(cls, value: str) -> str:
        if value in ("auto", "cpu") or all(part.strip().isdigit() for part in value.split(",")):
            return value
        raise ValueError("say auto, cpu, or indices of GPUs such as 0,1")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Scheduler replicas in the order given."""
        return tuple(part.strip() for part in self.scheduler_address.split(",") if part.strip())

    @property
    def token(self) -> str | None:
        """The join token, or None."""
        return self.join_token.get_secret_value() if self.join_token else None

    @property
    def limits(self) -> credits.Limits:
        """Bounds of the credits."""
        return credits.Limits(
            reserve_s=self.reserve_s,
            minimum=self.min_batches_in_hand,
            maximum=max(self.min_batches_in_hand, self.max_batches_in_hand),
            max_bytes=self.max_bytes_in_hand,
        )

    @property
    def stillness(self) -> progress.Limits:
        """When an executor is taken for hung."""
        return progress.Limits(work_s=self.stillness_limit_s, load_s=self.load_limit_s)

    def threads(self, executors: int) -> int:
        """Threads of one executor's computation."""
        return self.torch_threads or max(1, _cores() // max(1, executors))


def _cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
