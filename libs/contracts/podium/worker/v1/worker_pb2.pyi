import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from podium.common.v1 import item_pb2 as _item_pb2
from podium.common.v1 import job_pb2 as _job_pb2
from podium.common.v1 import result_pb2 as _result_pb2
from podium.common.v1 import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_STATE_UNSPECIFIED: _ClassVar[DeviceState]
    DEVICE_STATE_IDLE: _ClassVar[DeviceState]
    DEVICE_STATE_BOOTING: _ClassVar[DeviceState]
    DEVICE_STATE_READY: _ClassVar[DeviceState]
    DEVICE_STATE_BUSY: _ClassVar[DeviceState]
    DEVICE_STATE_COOLING: _ClassVar[DeviceState]
    DEVICE_STATE_FAULTED: _ClassVar[DeviceState]

class CancelReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCEL_REASON_UNSPECIFIED: _ClassVar[CancelReason]
    CANCEL_REASON_JOB_CANCELLED: _ClassVar[CancelReason]
    CANCEL_REASON_DEADLINE_EXCEEDED: _ClassVar[CancelReason]
    CANCEL_REASON_LEASE_LOST: _ClassVar[CancelReason]
    CANCEL_REASON_RESULT_REFUSED: _ClassVar[CancelReason]

class EmbedFailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBED_FAILURE_REASON_UNSPECIFIED: _ClassVar[EmbedFailureReason]
    EMBED_FAILURE_REASON_NOT_RESIDENT: _ClassVar[EmbedFailureReason]
    EMBED_FAILURE_REASON_BUSY: _ClassVar[EmbedFailureReason]
    EMBED_FAILURE_REASON_EXECUTOR_LOST: _ClassVar[EmbedFailureReason]
    EMBED_FAILURE_REASON_BAD_PAYLOAD: _ClassVar[EmbedFailureReason]
    EMBED_FAILURE_REASON_INTERNAL: _ClassVar[EmbedFailureReason]
DEVICE_STATE_UNSPECIFIED: DeviceState
DEVICE_STATE_IDLE: DeviceState
DEVICE_STATE_BOOTING: DeviceState
DEVICE_STATE_READY: DeviceState
DEVICE_STATE_BUSY: DeviceState
DEVICE_STATE_COOLING: DeviceState
DEVICE_STATE_FAULTED: DeviceState
CANCEL_REASON_UNSPECIFIED: CancelReason
CANCEL_REASON_JOB_CANCELLED: CancelReason
CANCEL_REASON_DEADLINE_EXCEEDED: CancelReason
CANCEL_REASON_LEASE_LOST: CancelReason
CANCEL_REASON_RESULT_REFUSED: CancelReason
EMBED_FAILURE_REASON_UNSPECIFIED: EmbedFailureReason
EMBED_FAILURE_REASON_NOT_RESIDENT: EmbedFailureReason
EMBED_FAILURE_REASON_BUSY: EmbedFailureReason
EMBED_FAILURE_REASON_EXECUTOR_LOST: EmbedFailureReason
EMBED_FAILURE_REASON_BAD_PAYLOAD: EmbedFailureReason
EMBED_FAILURE_REASON_INTERNAL: EmbedFailureReason

class WorkerFrame(_message.Message):
    __slots__ = ("hello", "status", "chunk", "done", "failed", "progress", "goodbye", "embedded")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    status: Status
    chunk: BatchChunk
    done: BatchDone
    failed: BatchFailed
    progress: Progress
    goodbye: Goodbye
    embedded: EmbedAnswer
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., chunk: _Optional[_Union[BatchChunk, _Mapping]] = ..., done: _Optional[_Union[BatchDone, _Mapping]] = ..., failed: _Optional[_Union[BatchFailed, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., embedded: _Optional[_Union[EmbedAnswer, _Mapping]] = ...) -> None: ...

class SchedulerFrame(_message.Message):
    __slots__ = ("welcome", "assign", "desired", "ack", "cancel", "embed", "drop_embed")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    DROP_EMBED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assign: Assign
    desired: Desired
    ack: Ack
    cancel: Cancel
    embed: EmbedCall
    drop_embed: EmbedDrop
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., desired: _Optional[_Union[Desired, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., embed: _Optional[_Union[EmbedCall, _Mapping]] = ..., drop_embed: _Optional[_Union[EmbedDrop, _Mapping]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("batch_id", "lease_token", "attempt")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    lease_token: bytes
    attempt: int
    def __init__(self, batch_id: _Optional[int] = ..., lease_token: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker_id", "hostname", "version", "devices", "backends", "workloads", "in_hand", "pod_id", "reads_token_ids")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    IN_HAND_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    READS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    hostname: str
    version: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    backends: _containers.RepeatedScalarFieldContainer[str]
    workloads: _containers.RepeatedScalarFieldContainer[str]
    in_hand: _containers.RepeatedCompositeFieldContainer[Lease]
    pod_id: str
    reads_token_ids: bool
    def __init__(self, worker_id: _Optional[str] = ..., hostname: _Optional[str] = ..., version: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., backends: _Optional[_Iterable[str]] = ..., workloads: _Optional[_Iterable[str]] = ..., in_hand: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., pod_id: _Optional[str] = ..., reads_token_ids: _Optional[bool] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("index", "uuid", "name", "vram_bytes", "compute_capability", "driver_version", "pci_bus_id", "cuda_version")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PCI_BUS_ID_FIELD_NUMBER: _ClassVar[int]
    CUDA_VERSION_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    name: str
    vram_bytes: int
    compute_capability: str
    driver_version: str
    pci_bus_id: str
    cuda_version: str
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., name: _Optional[str] = ..., vram_bytes: _Optional[int] = ..., compute_capability: _Optional[str] = ..., driver_version: _Optional[str] = ..., pci_bus_id: _Optional[str] = ..., cuda_version: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("devices", "workloads", "total_credits", "in_hand", "draining", "checked")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CREDITS_FIELD_NUMBER: _ClassVar[int]
    IN_HAND_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadStatus]
    total_credits: int
    in_hand: _containers.RepeatedCompositeFieldContainer[Lease]
    draining: bool
    checked: int
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., workloads: _Optional[_Iterable[_Union[WorkloadStatus, _Mapping]]] = ..., total_credits: _Optional[int] = ..., in_hand: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., draining: _Optional[bool] = ..., checked: _Optional[int] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("index", "state", "reason", "resident_workloads", "vram_used_bytes", "utilization_percent", "temperature_celsius", "power_watts", "vram_free_bytes", "ecc_errors", "xids", "models")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    VRAM_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    VRAM_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ECC_ERRORS_FIELD_NUMBER: _ClassVar[int]
    XIDS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    index: int
    state: DeviceState
    reason: str
    resident_workloads: _containers.RepeatedScalarFieldContainer[str]
    vram_used_bytes: int
    utilization_percent: int
    temperature_celsius: int
    power_watts: float
    vram_free_bytes: int
    ecc_errors: int
    xids: _containers.RepeatedScalarFieldContainer[int]
    models: _containers.RepeatedCompositeFieldContainer[ResidentModel]
    def __init__(self, index: _Optional[int] = ..., state: _Optional[_Union[DeviceState, str]] = ..., reason: _Optional[str] = ..., resident_workloads: _Optional[_Iterable[str]] = ..., vram_used_bytes: _Optional[int] = ..., utilization_percent: _Optional[int] = ..., temperature_celsius: _Optional[int] = ..., power_watts: _Optional[float] = ..., vram_free_bytes: _Optional[int] = ..., ecc_errors: _Optional[int] = ..., xids: _Optional[_Iterable[int]] = ..., models: _Optional[_Iterable[_Union[ResidentModel, _Mapping]]] = ...) -> None: ...

class ResidentModel(_message.Message):
    __slots__ = ("workload", "memory_bytes", "load_duration", "budget", "precision")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_DURATION_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    workload: str
    memory_bytes: int
    load_duration: _duration_pb2.Duration
    budget: int
    precision: str
    def __init__(self, workload: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., load_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., budget: _Optional[int] = ..., precision: _Optional[str] = ...) -> None: ...

class WorkloadStatus(_message.Message):
    __slots__ = ("workload", "credits", "items_per_second", "load_duration", "unavailable_reason")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LOAD_DURATION_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    workload: str
    credits: int
    items_per_second: float
    load_duration: _duration_pb2.Duration
    unavailable_reason: str
    def __init__(self, workload: _Optional[str] = ..., credits: _Optional[int] = ..., items_per_second: _Optional[float] = ..., load_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unavailable_reason: _Optional[str] = ...) -> None: ...

class BatchChunk(_message.Message):
    __slots__ = ("lease", "chunk")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    chunk: _result_pb2.ResultChunk
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., chunk: _Optional[_Union[_result_pb2.ResultChunk, _Mapping]] = ...) -> None: ...

class BatchDone(_message.Message):
    __slots__ = ("lease", "chunk_count", "compute_duration", "wait_duration", "token_count", "fetch_duration")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DURATION_FIELD_NUMBER: _ClassVar[int]
    WAIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FETCH_DURATION_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    chunk_count: int
    compute_duration: _duration_pb2.Duration
    wait_duration: _duration_pb2.Duration
    token_count: int
    fetch_duration: _duration_pb2.Duration
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., chunk_count: _Optional[int] = ..., compute_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., token_count: _Optional[int] = ..., fetch_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BatchFailed(_message.Message):
    __slots__ = ("lease", "reason", "message", "retryable", "handed_back")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    reason: _job_pb2.BatchFailureReason
    message: str
    retryable: bool
    handed_back: bool
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., reason: _Optional[_Union[_job_pb2.BatchFailureReason, str]] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ..., handed_back: _Optional[bool] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("lease", "items_done")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_DONE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    items_done: int
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., items_done: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "in_hand")
    REASON_FIELD_NUMBER: _ClassVar[int]
    IN_HAND_FIELD_NUMBER: _ClassVar[int]
    reason: str
    in_hand: _containers.RepeatedCompositeFieldContainer[Lease]
    def __init__(self, reason: _Optional[str] = ..., in_hand: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "heartbeat_interval", "lease_ttl", "max_chunk_bytes", "workloads", "resumed", "resume_grace")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    RESUME_GRACE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    heartbeat_interval: _duration_pb2.Duration
    lease_ttl: _duration_pb2.Duration
    max_chunk_bytes: int
    workloads: _containers.RepeatedCompositeFieldContainer[_workload_pb2.Workload]
    resumed: _containers.RepeatedCompositeFieldContainer[Lease]
    resume_grace: _duration_pb2.Duration
    def __init__(self, session_id: _Optional[str] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_chunk_bytes: _Optional[int] = ..., workloads: _Optional[_Iterable[_Union[_workload_pb2.Workload, _Mapping]]] = ..., resumed: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., resume_grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("lease", "job_id", "workload", "first_item", "item_count", "payload", "payload_encoding", "modality", "options", "deadline", "traceparent", "payload_offset", "known")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_ENCODING_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_OFFSET_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    job_id: str
    workload: str
    first_item: int
    item_count: int
    payload: bytes
    payload_encoding: _item_pb2.PayloadEncoding
    modality: _workload_pb2.Modality
    options: _item_pb2.EmbeddingOptions
    deadline: _timestamp_pb2.Timestamp
    traceparent: str
    payload_offset: int
    known: KnownItems
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., job_id: _Optional[str] = ..., workload: _Optional[str] = ..., first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., payload: _Optional[bytes] = ..., payload_encoding: _Optional[_Union[_item_pb2.PayloadEncoding, str]] = ..., modality: _Optional[_Union[_workload_pb2.Modality, str]] = ..., options: _Optional[_Union[_item_pb2.EmbeddingOptions, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ..., payload_offset: _Optional[int] = ..., known: _Optional[_Union[KnownItems, _Mapping]] = ...) -> None: ...

class KnownItems(_message.Message):
    __slots__ = ("sources", "vectors", "provenance", "truncations")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATIONS_FIELD_NUMBER: _ClassVar[int]
    sources: bytes
    vectors: bytes
    provenance: _result_pb2.Provenance
    truncations: _containers.RepeatedCompositeFieldContainer[_result_pb2.Truncation]
    def __init__(self, sources: _Optional[bytes] = ..., vectors: _Optional[bytes] = ..., provenance: _Optional[_Union[_result_pb2.Provenance, _Mapping]] = ..., truncations: _Optional[_Iterable[_Union[_result_pb2.Truncation, _Mapping]]] = ...) -> None: ...

class Desired(_message.Message):
    __slots__ = ("resident_workloads", "drain", "check", "heartbeat_interval")
    RESIDENT_WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    resident_workloads: _containers.RepeatedScalarFieldContainer[str]
    drain: bool
    check: int
    heartbeat_interval: _duration_pb2.Duration
    def __init__(self, resident_workloads: _Optional[_Iterable[str]] = ..., drain: _Optional[bool] = ..., check: _Optional[int] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("lease", "reason")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    reason: CancelReason
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., reason: _Optional[_Union[CancelReason, str]] = ...) -> None: ...

class EmbedCall(_message.Message):
    __slots__ = ("call_id", "workload", "payload", "payload_encoding", "modality", "options", "item_count", "timeout", "traceparent")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_ENCODING_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    workload: str
    payload: bytes
    payload_encoding: _item_pb2.PayloadEncoding
    modality: _workload_pb2.Modality
    options: _item_pb2.EmbeddingOptions
    item_count: int
    timeout: _duration_pb2.Duration
    traceparent: str
    def __init__(self, call_id: _Optional[int] = ..., workload: _Optional[str] = ..., payload: _Optional[bytes] = ..., payload_encoding: _Optional[_Union[_item_pb2.PayloadEncoding, str]] = ..., modality: _Optional[_Union[_workload_pb2.Modality, str]] = ..., options: _Optional[_Union[_item_pb2.EmbeddingOptions, _Mapping]] = ..., item_count: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class EmbedDrop(_message.Message):
    __slots__ = ("call_id",)
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    def __init__(self, call_id: _Optional[int] = ...) -> None: ...

class EmbedAnswer(_message.Message):
    __slots__ = ("call_id", "chunk", "failure", "token_counts", "compute_duration", "wait_duration")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DURATION_FIELD_NUMBER: _ClassVar[int]
    WAIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    chunk: _result_pb2.ResultChunk
    failure: EmbedFailure
    token_counts: _containers.RepeatedScalarFieldContainer[int]
    compute_duration: _duration_pb2.Duration
    wait_duration: _duration_pb2.Duration
    def __init__(self, call_id: _Optional[int] = ..., chunk: _Optional[_Union[_result_pb2.ResultChunk, _Mapping]] = ..., failure: _Optional[_Union[EmbedFailure, _Mapping]] = ..., token_counts: _Optional[_Iterable[int]] = ..., compute_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class EmbedFailure(_message.Message):
    __slots__ = ("reason", "message", "retryable")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    reason: EmbedFailureReason
    message: str
    retryable: bool
    def __init__(self, reason: _Optional[_Union[EmbedFailureReason, str]] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...
