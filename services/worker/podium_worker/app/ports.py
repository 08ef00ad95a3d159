"""What the worker's use cases need from the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from podium_worker.domain import devices, health, leases, pictures, problems


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
    max_image_bytes: int = 0
    """Largest image file; 0 where images are not taken."""
    max_image_pixels: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """An assigned batch. `body` is the serialized Assign, opaque here."""

    lease: leases.Lease
    workload: str
    item_count: int
    body: bytes
    images: bool = False
    """Whether its items are images, which the front fetches and decodes before an executor gets the batch."""
    known: int = 0
    """Items that need not be computed."""
    alone: bool = False
    """Whether it is computed without company: calls were on the device with it when a process died."""

    @property
    def to_compute(self) -> int:
        """Items that are to be computed."""
        return self.item_count - self.known


@dataclass(frozen=True, slots=True)
class Call:
    """An interactive call. `body` is a serialized Assign without a lease, opaque here."""

    call_id: int
    """Names it within its session."""
    workload: str
    item_count: int
    body: bytes
    images: bool
    deadline: float
    """Monotonic, by this process's clock."""


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call is not answered here. `reason` is the name of an EmbedFailureReason without its prefix."""

    reason: str
    message: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model once it is loaded."""

    seconds: float
    """The load, its canary included."""
    memory_bytes: int = 0
    """What its weights take on the device."""
    budget: int = 0
    """Tokens or images of one micro-batch; 0 where there is no such thing."""
    precision: str = ""
    picture: pictures.Picture | None = None
    """What it looks at; None when it takes no images."""


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
    fetch_s: float = 0.0
    """Seconds in which its images were fetched and decoded."""


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

    def know(self, workload: Workload, *, load_now: bool, budget: int = 0) -> None:
        """Tells it a workload, and loads the model at once if asked to. `budget`: of a micro-batch, 0 if unknown."""

    def unload(self, workload: str) -> None:
        """Gives back what a model takes. It must have no batch there."""

    def assign(self, assignment: Assignment, max_chunk_bytes: int, taken: Taken | None = None) -> None:
        """Queues a batch; of images, with the pictures that were taken in."""

    def cancel(self, key: str) -> None:
        """Drops a batch wherever it is."""

    def embed(self, key: str, call: Call, left_s: float, taken: Taken | None = None) -> None:
        """Passes on an interactive call, which has `left_s` seconds; of images, with the pictures taken in."""

    def drop_embed(self, key: str) -> None:
        """An interactive call is not wanted any more."""

    def check(self, workload: str) -> None:
        """Runs the canary of a loaded model, between two batches."""

    def kill(self) -> None:
        """Ends the process at once, even one that does not listen."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The pictures of a batch, in memory that the executors share."""

    body: bytes
    """The serialized Assign, with the items' keys as its whole payload."""
    picture: pictures.Picture
    offset: int
    """Of the first item's picture in that memory; each item has its place there, the failed ones too."""
    nbytes: int
    """What the pictures take."""
    failures: tuple[problems.ItemFailure, ...]
    """By ascending index."""
    fetch_s: float
    """Seconds from the begin of the intake to its end."""
    fetched_bytes: int
    """Of image files that came over the network."""


class Intake(Protocol):
    """Fetches and decodes the images of batches. Nothing here waits."""

    def begin(
        self, key: str, body: bytes, picture: pictures.Picture, *, max_pixels: int, max_bytes: int,
        done: Callable[[str, Taken], None], failed: Callable[[str, str, str], None], urgent: bool = False,
    ) -> None:  # fmt: skip
        """Calls `done(key, pictures)`, or `failed(key, reason, message)` when the batch as such cannot be read.

        `body` is the serialized Assign; `reason` the name of a BatchFailureReason without its prefix. `urgent`: an
        interactive call's, which does not wait behind batches.
        """

    def drop(self, key: str) -> None:
        """Ends an intake, or gives the memory of its pictures back. Harmless for a batch that has none."""


class NoImages:
    """The Intake of a worker that is given none."""

    def begin(
        self, key: str, body: bytes, picture: pictures.Picture, *, max_pixels: int, max_bytes: int,
        done: Callable[[str, Taken], None], failed: Callable[[str, str, str], None], urgent: bool = False,
    ) -> None:  # fmt: skip
        failed(key, "BAD_PAYLOAD", "This worker takes no images.")

    def drop(self, key: str) -> None: ...


class Outbox(Protocol):
    """The way to the scheduler. While there is no session everything is dropped: what matters is kept in hand."""

    def frames(self, serialized: Sequence[bytes]) -> None:
        """Sends frames in order."""

    def failed(self, lease: leases.Lease, failure: Failure) -> None:
        """Says that a batch is not done here."""

    def urgent(self, serialized: bytes) -> None:
        """Sends a frame ahead of all that are not urgent."""

    def embed_failed(self, call_id: int, failure: CallFailure) -> None:
        """Says, urgently, that an interactive call is not answered here."""


class Observer(Protocol):
    """Counts what happens."""

    def batch_done(self, workload: str, items: int, result: Result) -> None:
        """A batch was computed."""

    def batch_acknowledged(self, workload: str, ack_s: float) -> None:
        """The scheduler has its result, `ack_s` seconds after it was ready."""

    def call_done(self, workload: str, items: int, seconds: float) -> None:
        """An interactive call was computed; `seconds` are its share of the device's time."""

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

    def model_unloaded(self, workload: str) -> None:
        """A model made room for another."""

    def device_read(self, reading: health.Reading) -> None:
        """The sensors of a device were read."""
