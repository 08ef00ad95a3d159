import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from podium.common.v1 import job_pb2 as _job_pb2
from podium.worker.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PodState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POD_STATE_UNSPECIFIED: _ClassVar[PodState]
    POD_STATE_INTENDED: _ClassVar[PodState]
    POD_STATE_CREATING: _ClassVar[PodState]
    POD_STATE_STARTING: _ClassVar[PodState]
    POD_STATE_READY: _ClassVar[PodState]
    POD_STATE_DRAINING: _ClassVar[PodState]
    POD_STATE_DESTROYING: _ClassVar[PodState]
    POD_STATE_DESTROYED: _ClassVar[PodState]
    POD_STATE_LOST: _ClassVar[PodState]
    POD_STATE_FAILED: _ClassVar[PodState]

class PodReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POD_REASON_UNSPECIFIED: _ClassVar[PodReason]
    POD_REASON_IDLE: _ClassVar[PodReason]
    POD_REASON_OVER_BUDGET: _ClassVar[PodReason]
    POD_REASON_OVER_LIMIT: _ClassVar[PodReason]
    POD_REASON_CHEAPER_ELSEWHERE: _ClassVar[PodReason]
    POD_REASON_NOT_WANTED: _ClassVar[PodReason]
    POD_REASON_OPERATOR: _ClassVar[PodReason]
    POD_REASON_NO_CAPACITY: _ClassVar[PodReason]
    POD_REASON_REFUSED: _ClassVar[PodReason]
    POD_REASON_UNAUTHORIZED: _ClassVar[PodReason]
    POD_REASON_OUT_OF_FUNDS: _ClassVar[PodReason]
    POD_REASON_THROTTLED: _ClassVar[PodReason]
    POD_REASON_UNREACHABLE: _ClassVar[PodReason]
    POD_REASON_CREATE_UNRESOLVED: _ClassVar[PodReason]
    POD_REASON_BOOT_TIMEOUT: _ClassVar[PodReason]
    POD_REASON_CANARY_TIMEOUT: _ClassVar[PodReason]
    POD_REASON_PROVIDER_ERROR: _ClassVar[PodReason]
    POD_REASON_WORKER_GONE: _ClassVar[PodReason]
    POD_REASON_UNSUITABLE: _ClassVar[PodReason]
    POD_REASON_VANISHED: _ClassVar[PodReason]
    POD_REASON_ORPHAN: _ClassVar[PodReason]
    POD_REASON_MODEL_UNAVAILABLE: _ClassVar[PodReason]
POD_STATE_UNSPECIFIED: PodState
POD_STATE_INTENDED: PodState
POD_STATE_CREATING: PodState
POD_STATE_STARTING: PodState
POD_STATE_READY: PodState
POD_STATE_DRAINING: PodState
POD_STATE_DESTROYING: PodState
POD_STATE_DESTROYED: PodState
POD_STATE_LOST: PodState
POD_STATE_FAILED: PodState
POD_REASON_UNSPECIFIED: PodReason
POD_REASON_IDLE: PodReason
POD_REASON_OVER_BUDGET: PodReason
POD_REASON_OVER_LIMIT: PodReason
POD_REASON_CHEAPER_ELSEWHERE: PodReason
POD_REASON_NOT_WANTED: PodReason
POD_REASON_OPERATOR: PodReason
POD_REASON_NO_CAPACITY: PodReason
POD_REASON_REFUSED: PodReason
POD_REASON_UNAUTHORIZED: PodReason
POD_REASON_OUT_OF_FUNDS: PodReason
POD_REASON_THROTTLED: PodReason
POD_REASON_UNREACHABLE: PodReason
POD_REASON_CREATE_UNRESOLVED: PodReason
POD_REASON_BOOT_TIMEOUT: PodReason
POD_REASON_CANARY_TIMEOUT: PodReason
POD_REASON_PROVIDER_ERROR: PodReason
POD_REASON_WORKER_GONE: PodReason
POD_REASON_UNSUITABLE: PodReason
POD_REASON_VANISHED: PodReason
POD_REASON_ORPHAN: PodReason
POD_REASON_MODEL_UNAVAILABLE: PodReason

class Worker(_message.Message):
    __slots__ = ("worker_id", "session_id", "hostname", "version", "pod_id", "replica_id", "devices", "status", "connect_time", "heartbeat_time", "quarantine_reason")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_TIME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_TIME_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_REASON_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    session_id: str
    hostname: str
    version: str
    pod_id: str
    replica_id: str
    devices: _containers.RepeatedCompositeFieldContainer[_worker_pb2.Device]
    status: _worker_pb2.Status
    connect_time: _timestamp_pb2.Timestamp
    heartbeat_time: _timestamp_pb2.Timestamp
    quarantine_reason: str
    def __init__(self, worker_id: _Optional[str] = ..., session_id: _Optional[str] = ..., hostname: _Optional[str] = ..., version: _Optional[str] = ..., pod_id: _Optional[str] = ..., replica_id: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[_worker_pb2.Device, _Mapping]]] = ..., status: _Optional[_Union[_worker_pb2.Status, _Mapping]] = ..., connect_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heartbeat_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., quarantine_reason: _Optional[str] = ...) -> None: ...

class ModelLoad(_message.Message):
    __slots__ = ("workload", "device_name", "load_count", "mean_duration", "last_duration", "memory_bytes", "last_time")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    LOAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_DURATION_FIELD_NUMBER: _ClassVar[int]
    LAST_DURATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    workload: str
    device_name: str
    load_count: int
    mean_duration: _duration_pb2.Duration
    last_duration: _duration_pb2.Duration
    memory_bytes: int
    last_time: _timestamp_pb2.Timestamp
    def __init__(self, workload: _Optional[str] = ..., device_name: _Optional[str] = ..., load_count: _Optional[int] = ..., mean_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., memory_bytes: _Optional[int] = ..., last_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListModelLoadsRequest(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: str
    def __init__(self, workload: _Optional[str] = ...) -> None: ...

class ListModelLoadsResponse(_message.Message):
    __slots__ = ("model_loads",)
    MODEL_LOADS_FIELD_NUMBER: _ClassVar[int]
    model_loads: _containers.RepeatedCompositeFieldContainer[ModelLoad]
    def __init__(self, model_loads: _Optional[_Iterable[_Union[ModelLoad, _Mapping]]] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers", "next_page_token")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    next_page_token: str
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetWorkerRequest(_message.Message):
    __slots__ = ("worker_id",)
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    def __init__(self, worker_id: _Optional[str] = ...) -> None: ...

class GetWorkerResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id",)
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    def __init__(self, worker_id: _Optional[str] = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...

class Pod(_message.Message):
    __slots__ = ("pod_id", "name", "provider", "provider_pod_id", "state", "reason", "gpu_type", "gpu_count", "price_usd_per_hour", "create_time", "ready_time", "end_time", "worker_id", "cause", "workload", "cloud", "region", "call_time", "listed_time", "registered_time", "drain_time", "destroy_time", "last_seen_time", "worker_gone_time")
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_POD_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GPU_TYPE_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRICE_USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    READY_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    CLOUD_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    CALL_TIME_FIELD_NUMBER: _ClassVar[int]
    LISTED_TIME_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_TIME_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    DESTROY_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    WORKER_GONE_TIME_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    name: str
    provider: str
    provider_pod_id: str
    state: PodState
    reason: str
    gpu_type: str
    gpu_count: int
    price_usd_per_hour: float
    create_time: _timestamp_pb2.Timestamp
    ready_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    worker_id: str
    cause: PodReason
    workload: str
    cloud: str
    region: str
    call_time: _timestamp_pb2.Timestamp
    listed_time: _timestamp_pb2.Timestamp
    registered_time: _timestamp_pb2.Timestamp
    drain_time: _timestamp_pb2.Timestamp
    destroy_time: _timestamp_pb2.Timestamp
    last_seen_time: _timestamp_pb2.Timestamp
    worker_gone_time: _timestamp_pb2.Timestamp
    def __init__(self, pod_id: _Optional[str] = ..., name: _Optional[str] = ..., provider: _Optional[str] = ..., provider_pod_id: _Optional[str] = ..., state: _Optional[_Union[PodState, str]] = ..., reason: _Optional[str] = ..., gpu_type: _Optional[str] = ..., gpu_count: _Optional[int] = ..., price_usd_per_hour: _Optional[float] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ready_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., worker_id: _Optional[str] = ..., cause: _Optional[_Union[PodReason, str]] = ..., workload: _Optional[str] = ..., cloud: _Optional[str] = ..., region: _Optional[str] = ..., call_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., listed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., registered_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., drain_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., destroy_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., worker_gone_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PodEvent(_message.Message):
    __slots__ = ("time", "state", "reason", "cause")
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    state: PodState
    reason: str
    cause: PodReason
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[PodState, str]] = ..., reason: _Optional[str] = ..., cause: _Optional[_Union[PodReason, str]] = ...) -> None: ...

class ListPodsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[PodState]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[PodState, str]]] = ...) -> None: ...

class ListPodsResponse(_message.Message):
    __slots__ = ("pods", "next_page_token")
    PODS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    pods: _containers.RepeatedCompositeFieldContainer[Pod]
    next_page_token: str
    def __init__(self, pods: _Optional[_Iterable[_Union[Pod, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPodRequest(_message.Message):
    __slots__ = ("pod_id",)
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    def __init__(self, pod_id: _Optional[str] = ...) -> None: ...

class GetPodResponse(_message.Message):
    __slots__ = ("pod", "history")
    POD_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    history: _containers.RepeatedCompositeFieldContainer[PodEvent]
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ..., history: _Optional[_Iterable[_Union[PodEvent, _Mapping]]] = ...) -> None: ...

class SpawnPodRequest(_message.Message):
    __slots__ = ("provider", "gpu_type", "gpu_count", "request_id")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    GPU_TYPE_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    provider: str
    gpu_type: str
    gpu_count: int
    request_id: str
    def __init__(self, provider: _Optional[str] = ..., gpu_type: _Optional[str] = ..., gpu_count: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SpawnPodResponse(_message.Message):
    __slots__ = ("pod",)
    POD_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ...) -> None: ...

class DrainPodRequest(_message.Message):
    __slots__ = ("pod_id",)
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    def __init__(self, pod_id: _Optional[str] = ...) -> None: ...

class DrainPodResponse(_message.Message):
    __slots__ = ("pod",)
    POD_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ...) -> None: ...

class DestroyPodRequest(_message.Message):
    __slots__ = ("pod_id",)
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    pod_id: str
    def __init__(self, pod_id: _Optional[str] = ...) -> None: ...

class DestroyPodResponse(_message.Message):
    __slots__ = ("pod",)
    POD_FIELD_NUMBER: _ClassVar[int]
    pod: Pod
    def __init__(self, pod: _Optional[_Union[Pod, _Mapping]] = ...) -> None: ...

class Autoscaling(_message.Message):
    __slots__ = ("paused", "min_pods", "max_pods", "max_usd_per_hour", "max_usd_per_day")
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    MIN_PODS_FIELD_NUMBER: _ClassVar[int]
    MAX_PODS_FIELD_NUMBER: _ClassVar[int]
    MAX_USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    MAX_USD_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    min_pods: int
    max_pods: int
    max_usd_per_hour: float
    max_usd_per_day: float
    def __init__(self, paused: _Optional[bool] = ..., min_pods: _Optional[int] = ..., max_pods: _Optional[int] = ..., max_usd_per_hour: _Optional[float] = ..., max_usd_per_day: _Optional[float] = ...) -> None: ...

class GetAutoscalingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAutoscalingResponse(_message.Message):
    __slots__ = ("autoscaling", "providers")
    AUTOSCALING_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    autoscaling: Autoscaling
    providers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, autoscaling: _Optional[_Union[Autoscaling, _Mapping]] = ..., providers: _Optional[_Iterable[str]] = ...) -> None: ...

class SetAutoscalingRequest(_message.Message):
    __slots__ = ("autoscaling",)
    AUTOSCALING_FIELD_NUMBER: _ClassVar[int]
    autoscaling: Autoscaling
    def __init__(self, autoscaling: _Optional[_Union[Autoscaling, _Mapping]] = ...) -> None: ...

class SetAutoscalingResponse(_message.Message):
    __slots__ = ("autoscaling",)
    AUTOSCALING_FIELD_NUMBER: _ClassVar[int]
    autoscaling: Autoscaling
    def __init__(self, autoscaling: _Optional[_Union[Autoscaling, _Mapping]] = ...) -> None: ...

class ExplainQueueRequest(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: str
    def __init__(self, workload: _Optional[str] = ...) -> None: ...

class ExplainQueueResponse(_message.Message):
    __slots__ = ("reasons",)
    REASONS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Queue(_message.Message):
    __slots__ = ("workload", "batches_pending", "batches_queued", "batches_leased", "oldest_age", "credits", "workers")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    BATCHES_PENDING_FIELD_NUMBER: _ClassVar[int]
    BATCHES_QUEUED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_LEASED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workload: str
    batches_pending: int
    batches_queued: int
    batches_leased: int
    oldest_age: _duration_pb2.Duration
    credits: int
    workers: int
    def __init__(self, workload: _Optional[str] = ..., batches_pending: _Optional[int] = ..., batches_queued: _Optional[int] = ..., batches_leased: _Optional[int] = ..., oldest_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., credits: _Optional[int] = ..., workers: _Optional[int] = ...) -> None: ...

class ListQueuesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListQueuesResponse(_message.Message):
    __slots__ = ("queues",)
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[Queue]
    def __init__(self, queues: _Optional[_Iterable[_Union[Queue, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("batch_id", "app_id", "job_id", "workload", "first_item", "item_count", "reason", "message", "attempt", "finish_time")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    app_id: str
    job_id: str
    workload: str
    first_item: int
    item_count: int
    reason: _job_pb2.BatchFailureReason
    message: str
    attempt: int
    finish_time: _timestamp_pb2.Timestamp
    def __init__(self, batch_id: _Optional[int] = ..., app_id: _Optional[str] = ..., job_id: _Optional[str] = ..., workload: _Optional[str] = ..., first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., reason: _Optional[_Union[_job_pb2.BatchFailureReason, str]] = ..., message: _Optional[str] = ..., attempt: _Optional[int] = ..., finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListFailuresRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "workload")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    workload: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., workload: _Optional[str] = ...) -> None: ...

class ListFailuresResponse(_message.Message):
    __slots__ = ("failures", "next_page_token")
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    next_page_token: str
    def __init__(self, failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RequeueBatchRequest(_message.Message):
    __slots__ = ("batch_id",)
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    def __init__(self, batch_id: _Optional[int] = ...) -> None: ...

class RequeueBatchResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class App(_message.Message):
    __slots__ = ("app_id", "weight", "max_waiting_items", "create_time")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_ITEMS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    weight: int
    max_waiting_items: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, app_id: _Optional[str] = ..., weight: _Optional[int] = ..., max_waiting_items: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateAppRequest(_message.Message):
    __slots__ = ("app",)
    APP_FIELD_NUMBER: _ClassVar[int]
    app: App
    def __init__(self, app: _Optional[_Union[App, _Mapping]] = ...) -> None: ...

class CreateAppResponse(_message.Message):
    __slots__ = ("app",)
    APP_FIELD_NUMBER: _ClassVar[int]
    app: App
    def __init__(self, app: _Optional[_Union[App, _Mapping]] = ...) -> None: ...

class ListAppsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAppsResponse(_message.Message):
    __slots__ = ("apps", "next_page_token")
    APPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    apps: _containers.RepeatedCompositeFieldContainer[App]
    next_page_token: str
    def __init__(self, apps: _Optional[_Iterable[_Union[App, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateAppRequest(_message.Message):
    __slots__ = ("app",)
    APP_FIELD_NUMBER: _ClassVar[int]
    app: App
    def __init__(self, app: _Optional[_Union[App, _Mapping]] = ...) -> None: ...

class UpdateAppResponse(_message.Message):
    __slots__ = ("app",)
    APP_FIELD_NUMBER: _ClassVar[int]
    app: App
    def __init__(self, app: _Optional[_Union[App, _Mapping]] = ...) -> None: ...

class CreateAppTokenRequest(_message.Message):
    __slots__ = ("app_id", "description")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    description: str
    def __init__(self, app_id: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class CreateAppTokenResponse(_message.Message):
    __slots__ = ("token_id", "token")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    token: str
    def __init__(self, token_id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class RevokeAppTokenRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class RevokeAppTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("jobs_active", "items_waiting", "workers", "leader_replica_id", "usd_today", "usd_unattributed_today")
    JOBS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_WAITING_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    LEADER_REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    USD_TODAY_FIELD_NUMBER: _ClassVar[int]
    USD_UNATTRIBUTED_TODAY_FIELD_NUMBER: _ClassVar[int]
    jobs_active: int
    items_waiting: int
    workers: int
    leader_replica_id: str
    usd_today: float
    usd_unattributed_today: float
    def __init__(self, jobs_active: _Optional[int] = ..., items_waiting: _Optional[int] = ..., workers: _Optional[int] = ..., leader_replica_id: _Optional[str] = ..., usd_today: _Optional[float] = ..., usd_unattributed_today: _Optional[float] = ...) -> None: ...
