"""What the ledger tells the use cases, and what they tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from podium_scheduler.domain import batches, jobs, requeue


@dataclass(frozen=True, slots=True)
class App:
    """A tenant."""

    app_id: str
    weight: int
    max_waiting_items: int


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as the gateway cut it; the payload is opaque."""

    first_item: int
    item_count: int
    payload: bytes
    payload_encoding: int
    hashes: bytes = b""
    """Of its items, 16 bytes each, where identical ones are computed once; see domain.deduplication."""
    identities: bytes = b""
    """A serialized ItemIdentities: the hashes, and the items' keys."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job, to be admitted."""

    app_id: str
    request_id: UUID
    payload_digest: bytes
    workload: str
    modality: int
    priority: int
    labels: Mapping[str, str]
    options: bytes
    completion_window: timedelta | None
    traceparent: str
    batches: tuple[NewBatch, ...]
    budget_micro_usd: int | None = None
    """The most that rented pods may cost for it; None: no bound of its own."""
    deduplicate: bool = False
    scope: bytes = b""
    """With deduplicate: within what its items may be identical to others; see app.scopes."""

    @property
    def item_count(self) -> int:
        """Items in all batches."""
        return sum(b.item_count for b in self.batches)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the ledger has it."""

    job_id: UUID
    app_id: str
    request_id: UUID
    payload_digest: bytes
    workload: str
    modality: int
    priority: int
    labels: Mapping[str, str]
    options: bytes
    state: jobs.State
    item_count: int
    batch_count: int
    batches_finished: int
    items_succeeded: int
    items_failed: int
    items_truncated: int
    items_released: int
    create_time: datetime
    start_time: datetime | None
    finish_time: datetime | None
    deadline: datetime | None
    expire_time: datetime | None
    results_expired: bool
    budget_micro_usd: int | None = None
    dedupe_scope: bytes | None = None
    """None: each item is computed, whatever others there are."""
    items_deduplicated: int = 0


@dataclass(frozen=True, slots=True)
class ArchiveStep:
    """What one step took out of the hot table: batches, and the jobs of which that was the last."""

    batches: int
    jobs: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the ledger knows of a batch besides its payload."""

    first_item: int
    item_count: int
    state: batches.State
    attempt: int
    failure_reason: batches.FailureReason | None
    failure_message: str


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a listing shows."""

    states: tuple[jobs.State, ...] = ()
    labels: Mapping[str, str] | None = None
    workload: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who takes which batch, and under which token."""

    batch_id: int
    lease_token: bytes
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Leased:
    """A batch whose lease has just been written."""

    batch_id: int
    lease_token: bytes
    session_id: UUID
    attempt: int
    job_id: UUID
    workload: str
    modality: int
    first_item: int
    item_count: int
    payload: bytes
    payload_encoding: int
    payload_offset: int
    options: bytes
    deadline: datetime | None
    traceparent: str
    job_starts: bool
    waited_s: float
    """From admission (or the end of its backoff) to the claim."""
    dedupe_scope: bytes | None = None
    identities: bytes | None = None


@dataclass(frozen=True, slots=True)
class LeaseKey:
    """Names one attempt."""

    batch_id: int
    lease_token: bytes


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as the ledger has it."""

    batch_id: int
    lease_token: bytes
    attempt: int
    job_id: UUID
    session_id: UUID


@dataclass(frozen=True, slots=True)
class ResumedLease:
    """A lease that a worker's new session goes on with."""

    batch_id: int
    lease_token: bytes
    attempt: int
    job_id: UUID
    workload: str
    first_item: int
    item_count: int
    options: bytes


@dataclass(frozen=True, slots=True)
class Completion:
    """A batch whose result is complete and checked."""

    batch_id: int
    lease_token: bytes
    job_id: UUID
    first_item: int
    item_count: int
    items_failed: int
    items_truncated: int
    items_deduplicated: int | None = None
    """Those that were not computed for it; None where nobody counts them."""


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector of an item, as its job wants it encoded."""

    row: bytes
    token_count: int = 0
    """Tokens of a text that was truncated to `max_tokens`; 0: it was not."""
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class KnownVector:
    """The vector of an item that was computed before, by which batch, and what made it (a serialized Provenance)."""

    owner: int
    vector: Vector
    made_by: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the items of a batch, by their hashes."""

    vectors: Mapping[bytes, KnownVector]
    awaited: frozenset[bytes]
    """Items that others are computing, and that the batch waits for."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Vectors that a batch has computed, by their items' hashes. `made_by`: a serialized Provenance."""

    batch_id: int
    scope: bytes
    made_by: bytes
    vectors: Mapping[bytes, Vector]
    waits: bool
    """It left out what others compute, and waits for them now."""


@dataclass(frozen=True, slots=True)
class ParkedBatch:
    """A batch that waits for nobody any more."""

    batch_id: int
    job_id: UUID
    workload: str
    first_item: int
    item_count: int
    attempt: int
    payload_offset: int
    options: bytes
    dedupe_scope: bytes
    identities: bytes
    priority: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A batch whose attempt failed, and what becomes of it."""

    batch_id: int
    lease_token: bytes
    job_id: UUID
    outcome: batches.Outcome
    message: str


@dataclass(frozen=True, slots=True)
class NewSession:
    """A worker's session, to be opened."""

    session_id: UUID
    worker_id: UUID
    replica_id: str
    hostname: str
    version: str
    pod_id: str
    hello: bytes


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a session's last Status said."""

    session_id: UUID
    status: bytes
    credits: Mapping[str, int]
    quarantine_reason: str = ""
    quarantine_left_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a worker's new session takes over from the one before."""

    drain: bool = False
    quarantine_reason: str = ""
    quarantine_left_s: float = 0.0
    wanted: Sequence[str] = ()
    status: bytes = b""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the ledger wants of a session: to drain, and which workloads to keep loaded, the most wanted first."""

    drain: bool
    wanted: Sequence[str]


@dataclass(frozen=True, slots=True)
class PlacedSession:
    """A session as the placer sees it: the worker's own frames, serialized, and what was decided about it."""

    session_id: UUID
    hello: bytes
    status: bytes
    drain: bool
    quarantine_reason: str
    wanted: Sequence[str]
    starts_for: str | None = None
    """Of the worker of a pod that is not READY yet: the workload that it was rented for, empty for any; else None."""


@dataclass(frozen=True, slots=True)
class WorkloadWork:
    """What there is to do of a workload, waiting or under way: items without an outcome, and the oldest job's age."""

    workload: str
    items: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """A load that a worker told of."""

    workload: str
    device_name: str
    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredLoad:
    """What is known of a workload's loads on one type of device; the newer ones weigh more in the mean."""

    workload: str
    device_name: str
    load_count: int
    mean_s: float
    last_s: float
    memory_bytes: int
    last_time: datetime


@dataclass(frozen=True, slots=True)
class WorkloadDepth:
    """How much of a workload waits in the ledger."""

    workload: str
    batches_pending: int
    oldest_create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A reference read from a work stream."""

    workload: str
    entry_id: str
    batch_id: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A job with results that wait to be acknowledged."""

    job_id: UUID
    workload: str


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A COMPLETED batch, whose result is in the buffer."""

    batch_id: int
    first_item: int
    item_count: int


@dataclass(frozen=True, slots=True)
class Released:
    """Batches of a job, by first item, that all who wanted them have acknowledged; `whole`: nothing of it is left."""

    job_id: UUID
    first_items: tuple[int, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer that was opened."""

    consumer_id: UUID
    group_id: int
    workload: str
    """The group's, which may be another than was asked for."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a consumer holds: a finished batch, or the job at its end."""

    delivery_id: int
    job_id: UUID
    batch: Batch | None
    job: Job | None


@dataclass(frozen=True, slots=True)
class Advance:
    """What a consumer was given. Not `filled`: its group is still being offered what had finished before."""

    group_id: int
    deliveries: tuple[Delivery, ...]
    filled: bool


@dataclass(frozen=True, slots=True)
class Requeued:
    """What came of an operator's wish to run a batch again."""

    job_id: UUID
    refused: requeue.Refusal | None


@dataclass(frozen=True, slots=True)
class NewPod:
    """A pod that is wanted: an offer, and what for."""

    pod_id: UUID
    name: str
    provider: str
    gpu_type: str
    gpu_count: int
    price_usd_per_hour: Decimal
    vram_bytes: int = 0
    compute_capability: str = ""
    device_name: str = ""
    cloud: str = "NONE"
    region: str = ""
    workload: str = ""
    detail: str = ""
    """Why it is wanted, in words."""
    request_id: UUID | None = None
    """The same one again returns the first pod."""


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """What an operator allows the autoscaler; see domain.autoscaling.policy.Limits."""

    paused: bool = False
    min_pods: int = 0
    max_pods: int = 20
    usd_per_hour: Decimal | None = None
    usd_per_day: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the autoscaler decided, and why, in words."""

    workload: str
    """Empty: it concerns all."""
    kind: str
    """As the action is called: Spawn, Drain, Undrain, Destroy, Alert, Wait."""
    reason: str
    pod_id: UUID | None = None
    time: datetime | None = None
    """None: not written yet."""


@dataclass(frozen=True, slots=True)
class DemandRow:
    """Items of a workload without an outcome that are due at about the same time; `held`: they wait for readers."""

    workload: str
    items: int
    since: datetime
    due: datetime | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class AskedFor:
    """Interactive calls that have come to a replica since it last said so; `unserved`: no worker had the model."""

    workload: str
    calls: int
    unserved: int


@dataclass(frozen=True, slots=True)
class InteractiveDemand:
    """A workload that interactive calls have asked for within the last minute."""

    workload: str
    waiting_since: datetime | None
    """When the first of those came that found no worker, none having found one since; None: the last ones did."""
    waiting_s: float
    """How long ago that was; 0: they did."""


@dataclass(frozen=True, slots=True)
class BudgetedJob:
    """An active job with a budget of its own, and its items without an outcome; `held`: those of them that wait."""

    job_id: UUID
    workload: str
    items: int
    since: datetime
    due: datetime | None
    budget_micro_usd: int
    held: int = 0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What came of a workload lately: items per second, and the shortest completion window, in seconds."""

    items_per_s: float
    window_s: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a workload runs on one device of a type."""

    workload: str
    device_name: str
    items_per_s: float
    batch_count: int = 1


@dataclass(frozen=True, slots=True)
class PodUse:
    """GPU-seconds that a pod computed for a job; of a load or a call, `job_id` is None."""

    pod_id: UUID
    workload: str
    seconds: float
    job_id: UUID | None = None
    call: bool = False
    """Whether it was an interactive call, which has no job and is no load either."""


@dataclass(frozen=True, slots=True)
class PodWork:
    """What a pod did for a workload in all, in GPU-seconds."""

    workload: str
    busy_s: float
    load_s: float
    call_s: float = 0.0
    """Of `busy_s`, what interactive calls took: no job answers for it."""


@dataclass(frozen=True, slots=True)
class PodShare:
    """A pod, as its bill is shared: how long its worker was there, and what that was used for."""

    pod_id: UUID
    served_s: float
    gpu_count: int
    work: Sequence[PodWork]


@dataclass(frozen=True, slots=True)
class Due:
    """What somebody has to see to now."""

    lost_leases: bool
    """A session's time is over, or one that has ended still has leases."""
    over_jobs: bool
    """A job's deadline has passed, or its batches may be archived."""
    consumers: bool
    """A consumer's lease has run out, or a group has to be filled."""
    waiting: bool
    """Something waits to be fed."""
