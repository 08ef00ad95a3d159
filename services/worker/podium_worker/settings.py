"""Settings of the worker: environment variables beginning with PODIUM_."""

from __future__ import annotations

import os
from typing import Annotated, Any, Self

import pydantic
from pydantic_settings import NoDecode

from podium_runtime import settings
from podium_worker.adapters import fetch
from podium_worker.domain import credits, progress, residency
from podium_worker.domain.addresses import Rules, parse_rules

_MIB = 1024 * 1024
_WEIGHTS_SHARE = 0.8


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
    """`auto` (GPUs if there are any, also if they are in trouble, else the CPU), `cpu`, or indices of GPUs: `0,1`."""
    torch_threads: int = pydantic.Field(default=0, ge=0)
    """Threads of one computation on the CPU. 0: the cores, shared out over the executors."""
    hostname: str = ""
    """What people know this machine by. Empty: its own name."""
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
    call_share: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Of each device's time, of the decoders' and of the room for pictures, what interactive calls may take from
    batches that wait."""
    call_slice_s: float = pydantic.Field(default=0.075, ge=0)
    """While interactive calls come: how long a micro-batch of a job may take, in seconds, or up to twice that where
    shorter ones cost the job more than a tenth. 0: they are not cut for calls."""
    stillness_limit_s: float = pydantic.Field(default=60.0, gt=0)
    """How long an executor with work may finish no micro-batch and no other step before it is killed, in seconds."""
    load_limit_s: float = pydantic.Field(default=600.0, gt=0)
    """How long an executor may take to start, and to load a model that names no `load_timeout`, in seconds."""
    connect_timeout_s: float = pydantic.Field(default=10.0, gt=0)
    """How long the scheduler may take to say Welcome."""
    model_memory_bytes: int = pydantic.Field(default=0, ge=0)
    """For the weights of each device's models together. 0: four fifths of a GPU's memory, and no bound on a CPU
    or where a GPU does not tell its memory."""
    arena_bytes: int = pydantic.Field(default=512 * _MIB, ge=16 * _MIB)
    """For the decoded images of all batches in hand."""
    decoders: int = pydantic.Field(default=0, ge=0)
    """Processes that decode images. 0: one for each core."""
    decoder_memory_bytes: int = pydantic.Field(default=1024 * _MIB, ge=128 * _MIB)
    """Own memory of a decoder, in bytes; an image that needs more fails alone. It may take up to 16 bytes a pixel."""
    fetch_concurrency: int = pydantic.Field(default=32, ge=1)
    """Images fetched at a time."""
    fetch_per_host: int = pydantic.Field(default=8, ge=1)
    """Images fetched from one host at a time."""
    fetch_connect_timeout_s: float = pydantic.Field(default=5.0, gt=0)
    """How long a connection may take, its TLS handshake included."""
    fetch_read_timeout_s: float = pydantic.Field(default=10.0, gt=0)
    """How long a server may be silent."""
    fetch_total_timeout_s: float = pydantic.Field(default=60.0, gt=0)
    """How long one image may take, with its redirects and retries."""
    fetch_attempts: int = pydantic.Field(default=3, ge=1)
    """Tries of one image."""
    fetch_memory_bytes: int = pydantic.Field(default=256 * _MIB, ge=_MIB)
    """Image files that are fetched and not decoded yet, together."""
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (`images.internal`, `*.internal`) and networks (`10.1.0.0/16`) that images may come from although they are
    private."""
    s3_region: str = ""
    """Region of `s3://` buckets. Empty: what S3 makes of a bucket's name."""
    s3_endpoint: str = ""
    """Another server than Amazon's, as a URL; it may be private."""
    s3_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    """Buckets that are read with this worker's own credentials; all others are read anonymously."""

    _lists = pydantic.field_validator("workloads", "fetch_allow", "s3_buckets", mode="before")(_split)

    @pydantic.model_validator(mode="after")
    def _fetching_makes_sense(self) -> Self:
        # Each says in a ValueError what is wrong with it.
        _ = self.fetch_rules, self.fetch_limits, self.s3_access
        return self

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

    @property
    def fetch_rules(self) -> Rules:
        """Which addresses images may come from."""
        return parse_rules(self.fetch_allow)

    @property
    def fetch_limits(self) -> fetch.FetchLimits:
        """Bounds of fetching."""
        return fetch.FetchLimits(
            concurrency=self.fetch_concurrency,
            per_host=self.fetch_per_host,
            memory_bytes=self.fetch_memory_bytes,
            connect_s=self.fetch_connect_timeout_s,
            read_s=self.fetch_read_timeout_s,
            total_s=self.fetch_total_timeout_s,
            attempts=self.fetch_attempts,
        )

    @property
    def s3_access(self) -> fetch.S3Access:
        """How buckets are reached."""
        return fetch.S3Access(self.s3_region, self.s3_endpoint, self.s3_buckets)

    @property
    def decoder_count(self) -> int:
        """Processes that decode images."""
        return self.decoders or _cores()

    def capacity(self, vram_bytes: int) -> residency.Capacity:
        """For the weights of one device's models. The rest of a GPU is for what they compute."""
        return residency.Capacity(
            shared_bytes=self.model_memory_bytes or int(vram_bytes * _WEIGHTS_SHARE),
            alone_bytes=max(self.model_memory_bytes, vram_bytes),
        )

    def threads(self, executors: int) -> int:
        """Threads of one executor's computation."""
        return self.torch_threads or max(1, _cores() // max(1, executors))


def _cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
