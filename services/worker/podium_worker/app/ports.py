"""What the worker's use cases need from the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from podium_worker.domain import devices, leases


@dataclass(frozen=True, slots=True)
class Workload:
    """A registry entry. `spec` is the serialized message, opaque here; the executor reads it."""

    name: str
    needs: devices.Needs
    dimension: int
    spec: bytes
    load_limit_s: float = 0.0
    """How long a load of its model may take, in seconds; 0: the worker's own limit."""
    missing_files: str = ""
    """Why its model files cannot be found, as far as the front can see; empty when they are there or unknown."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An assigned batch. `body` is the serialized Assign, opaque here."""

    lease: leases.Lease
    workload: str
    item_count: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """A computed batch: serialized frames for the scheduler, and what it took."""

    frames: Sequence[bytes]
    workload: str
    items: int
    """Those that progress has not told."""
    items_failed: int
    items_truncated: int
    tokens: int
    wait_s: float
    prepare_s: float
    compute_s: float
    idle_s: float
    """Seconds the device had waited before this batch."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a batch is not done here. `reason` is the name of a BatchFailureReason without its prefix."""

    reason: str
    message: str
    retryable: bool = True
    handed_back: bool = False


class Executor(Protocol):
    """The process of one device, as the worker commands it. Nothing here waits."""

    @property
    def device(self) -> devices.Device:
        """What it computes on."""

    @property
    def up(self) -> bool:
        """Whether commands reach it now."""

    def know(self, workload: Workload, *, load_now: bool) -> None:
        """Tells it a workload, and loads the model at once if asked to."""

    def assign(self, assignment: Assignment, max_chunk_bytes: int) -> None:
        """Queues a batch."""

    def cancel(self, key: str) -> None:
        """Drops a batch wherever it is."""

    def check(self, workload: str) -> None:
        """Runs the canary of a loaded model, between two batches."""

    def kill(self) -> None:
        """Ends the process at once, even one that does not listen."""


class Outbox(Protocol):
    """The way to the scheduler. While there is no session everything is dropped: what matters is kept in hand."""

    def frames(self, serialized: Sequence[bytes]) -> None:
        """Sends frames in order."""

    def failed(self, lease: leases.Lease, failure: Failure) -> None:
        """Says that a batch is not done here."""


class Observer(Protocol):
    """Counts what happens."""

    def batch_done(self, workload: str, items: int, result: Result) -> None:
        """A batch was computed."""

    def batch_acknowledged(self, workload: str, ack_s: float) -> None:
        """The scheduler has its result, `ack_s` seconds after it was ready."""

    def items_computed(self, workload: str, items: int) -> None:
        """Items went through the model, whether or not anybody wanted the batch in the end."""

    def batch_dropped(self, workload: str) -> None:
        """The executor has stopped a batch that was taken back."""

    def batch_failed(self, workload: str, failure: Failure) -> None:
        """A batch was given up."""

    def model_loaded(self, workload: str, seconds: float) -> None:
        """A model was loaded."""

    def model_unavailable(self, workload: str) -> None:
        """A model could not be loaded."""

    def executor_lost(self, device: int, *, hung: bool) -> None:
        """An executor process ended unasked, or was killed because it was `hung`."""

    def canary(self, workload: str, *, passed: bool) -> None:
        """The canary of a loaded model was run."""
