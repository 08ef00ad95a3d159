import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from podium.common.v1 import item_pb2 as _item_pb2
from podium.common.v1 import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_PENDING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_COMPLETED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_EXPIRED: _ClassVar[JobState]

class BatchState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_STATE_UNSPECIFIED: _ClassVar[BatchState]
    BATCH_STATE_PENDING: _ClassVar[BatchState]
    BATCH_STATE_QUEUED: _ClassVar[BatchState]
    BATCH_STATE_LEASED: _ClassVar[BatchState]
    BATCH_STATE_COMPLETED: _ClassVar[BatchState]
    BATCH_STATE_DELIVERED: _ClassVar[BatchState]
    BATCH_STATE_FAILED: _ClassVar[BatchState]
    BATCH_STATE_CANCELLED: _ClassVar[BatchState]
    BATCH_STATE_EXPIRED: _ClassVar[BatchState]

class BatchFailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_FAILURE_REASON_UNSPECIFIED: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_WORKER_LOST: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_EXECUTOR_CRASHED: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_OUT_OF_MEMORY: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_MODEL_UNAVAILABLE: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_BAD_PAYLOAD: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_CANCELLED: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_DEADLINE_EXCEEDED: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_BAD_RESULT: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_INTERNAL: _ClassVar[BatchFailureReason]
    BATCH_FAILURE_REASON_EXECUTOR_HUNG: _ClassVar[BatchFailureReason]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_PENDING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_COMPLETED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_EXPIRED: JobState
BATCH_STATE_UNSPECIFIED: BatchState
BATCH_STATE_PENDING: BatchState
BATCH_STATE_QUEUED: BatchState
BATCH_STATE_LEASED: BatchState
BATCH_STATE_COMPLETED: BatchState
BATCH_STATE_DELIVERED: BatchState
BATCH_STATE_FAILED: BatchState
BATCH_STATE_CANCELLED: BatchState
BATCH_STATE_EXPIRED: BatchState
BATCH_FAILURE_REASON_UNSPECIFIED: BatchFailureReason
BATCH_FAILURE_REASON_WORKER_LOST: BatchFailureReason
BATCH_FAILURE_REASON_EXECUTOR_CRASHED: BatchFailureReason
BATCH_FAILURE_REASON_OUT_OF_MEMORY: BatchFailureReason
BATCH_FAILURE_REASON_MODEL_UNAVAILABLE: BatchFailureReason
BATCH_FAILURE_REASON_BAD_PAYLOAD: BatchFailureReason
BATCH_FAILURE_REASON_CANCELLED: BatchFailureReason
BATCH_FAILURE_REASON_DEADLINE_EXCEEDED: BatchFailureReason
BATCH_FAILURE_REASON_BAD_RESULT: BatchFailureReason
BATCH_FAILURE_REASON_INTERNAL: BatchFailureReason
BATCH_FAILURE_REASON_EXECUTOR_HUNG: BatchFailureReason

class Job(_message.Message):
    __slots__ = ("job_id", "request_id", "workload", "state", "priority", "labels", "options", "progress", "create_time", "start_time", "finish_time", "deadline", "expire_time", "results_released", "cost", "modality", "results_expired", "budget_usd", "deduplicated")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULTS_RELEASED_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    RESULTS_EXPIRED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_USD_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    request_id: str
    workload: str
    state: JobState
    priority: int
    labels: _containers.ScalarMap[str, str]
    options: _item_pb2.EmbeddingOptions
    progress: JobProgress
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    finish_time: _timestamp_pb2.Timestamp
    deadline: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    results_released: bool
    cost: JobCost
    modality: _workload_pb2.Modality
    results_expired: bool
    budget_usd: float
    deduplicated: bool
    def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., workload: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., priority: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., options: _Optional[_Union[_item_pb2.EmbeddingOptions, _Mapping]] = ..., progress: _Optional[_Union[JobProgress, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., results_released: _Optional[bool] = ..., cost: _Optional[_Union[JobCost, _Mapping]] = ..., modality: _Optional[_Union[_workload_pb2.Modality, str]] = ..., results_expired: _Optional[bool] = ..., budget_usd: _Optional[float] = ..., deduplicated: _Optional[bool] = ...) -> None: ...

class JobProgress(_message.Message):
    __slots__ = ("items_total", "items_succeeded", "items_failed", "items_truncated", "batches_total", "batches_finished", "items_released", "items_deduplicated")
    ITEMS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FAILED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FINISHED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_RELEASED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_DEDUPLICATED_FIELD_NUMBER: _ClassVar[int]
    items_total: int
    items_succeeded: int
    items_failed: int
    items_truncated: int
    batches_total: int
    batches_finished: int
    items_released: int
    items_deduplicated: int
    def __init__(self, items_total: _Optional[int] = ..., items_succeeded: _Optional[int] = ..., items_failed: _Optional[int] = ..., items_truncated: _Optional[int] = ..., batches_total: _Optional[int] = ..., batches_finished: _Optional[int] = ..., items_released: _Optional[int] = ..., items_deduplicated: _Optional[int] = ...) -> None: ...

class JobCost(_message.Message):
    __slots__ = ("gpu_seconds", "usd")
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USD_FIELD_NUMBER: _ClassVar[int]
    gpu_seconds: float
    usd: float
    def __init__(self, gpu_seconds: _Optional[float] = ..., usd: _Optional[float] = ...) -> None: ...
