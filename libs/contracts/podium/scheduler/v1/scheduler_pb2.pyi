import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from podium.common.v1 import item_pb2 as _item_pb2
from podium.common.v1 import job_pb2 as _job_pb2
from podium.common.v1 import result_pb2 as _result_pb2
from podium.common.v1 import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdmitJobRequest(_message.Message):
    __slots__ = ("app_id", "request_id", "payload_digest", "workload", "modality", "priority", "labels", "options", "completion_window", "batches", "traceparent", "budget_usd", "deduplicate")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_USD_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATE_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    request_id: str
    payload_digest: bytes
    workload: str
    modality: _workload_pb2.Modality
    priority: int
    labels: _containers.ScalarMap[str, str]
    options: _item_pb2.EmbeddingOptions
    completion_window: _duration_pb2.Duration
    batches: _containers.RepeatedCompositeFieldContainer[NewBatch]
    traceparent: str
    budget_usd: float
    deduplicate: bool
    def __init__(self, app_id: _Optional[str] = ..., request_id: _Optional[str] = ..., payload_digest: _Optional[bytes] = ..., workload: _Optional[str] = ..., modality: _Optional[_Union[_workload_pb2.Modality, str]] = ..., priority: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., options: _Optional[_Union[_item_pb2.EmbeddingOptions, _Mapping]] = ..., completion_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., batches: _Optional[_Iterable[_Union[NewBatch, _Mapping]]] = ..., traceparent: _Optional[str] = ..., budget_usd: _Optional[float] = ..., deduplicate: _Optional[bool] = ...) -> None: ...

class NewBatch(_message.Message):
    __slots__ = ("first_item", "item_count", "payload", "payload_encoding", "identities")
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_ENCODING_FIELD_NUMBER: _ClassVar[int]
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    first_item: int
    item_count: int
    payload: bytes
    payload_encoding: _item_pb2.PayloadEncoding
    identities: ItemIdentities
    def __init__(self, first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., payload: _Optional[bytes] = ..., payload_encoding: _Optional[_Union[_item_pb2.PayloadEncoding, str]] = ..., identities: _Optional[_Union[ItemIdentities, _Mapping]] = ...) -> None: ...

class ItemIdentities(_message.Message):
    __slots__ = ("hashes", "keys")
    HASHES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    hashes: bytes
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, hashes: _Optional[bytes] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...

class AdmitJobResponse(_message.Message):
    __slots__ = ("job", "already_accepted")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ALREADY_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    already_accepted: bool
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., already_accepted: _Optional[bool] = ...) -> None: ...

class AuthenticateAppRequest(_message.Message):
    __slots__ = ("token_sha256",)
    TOKEN_SHA256_FIELD_NUMBER: _ClassVar[int]
    token_sha256: bytes
    def __init__(self, token_sha256: _Optional[bytes] = ...) -> None: ...

class AuthenticateAppResponse(_message.Message):
    __slots__ = ("app_id", "ttl")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    ttl: _duration_pb2.Duration
    def __init__(self, app_id: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("app_id", "job_id")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    job_id: str
    def __init__(self, app_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("app_id", "page_size", "page_token", "states", "labels", "workload")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[_job_pb2.JobState]
    labels: _containers.ScalarMap[str, str]
    workload: str
    def __init__(self, app_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_job_pb2.JobState, str]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., workload: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("app_id", "job_id")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    job_id: str
    def __init__(self, app_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ListBatchesRequest(_message.Message):
    __slots__ = ("app_id", "job_id", "from_item", "limit")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_ITEM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    job_id: str
    from_item: int
    limit: int
    def __init__(self, app_id: _Optional[str] = ..., job_id: _Optional[str] = ..., from_item: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListBatchesResponse(_message.Message):
    __slots__ = ("batches", "acknowledge_results")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_RESULTS_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[Batch]
    acknowledge_results: bool
    def __init__(self, batches: _Optional[_Iterable[_Union[Batch, _Mapping]]] = ..., acknowledge_results: _Optional[bool] = ...) -> None: ...

class ReportMissingResultRequest(_message.Message):
    __slots__ = ("app_id", "job_id")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    job_id: str
    def __init__(self, app_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class ReportMissingResultResponse(_message.Message):
    __slots__ = ("batches_recomputed",)
    BATCHES_RECOMPUTED_FIELD_NUMBER: _ClassVar[int]
    batches_recomputed: int
    def __init__(self, batches_recomputed: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("first_item", "item_count", "state", "failure_reason", "failure_message", "attempt")
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    first_item: int
    item_count: int
    state: _job_pb2.BatchState
    failure_reason: _job_pb2.BatchFailureReason
    failure_message: str
    attempt: int
    def __init__(self, first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., state: _Optional[_Union[_job_pb2.BatchState, str]] = ..., failure_reason: _Optional[_Union[_job_pb2.BatchFailureReason, str]] = ..., failure_message: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ReleaseResultsRequest(_message.Message):
    __slots__ = ("app_id", "job_id", "before_item")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_ITEM_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    job_id: str
    before_item: int
    def __init__(self, app_id: _Optional[str] = ..., job_id: _Optional[str] = ..., before_item: _Optional[int] = ...) -> None: ...

class ReleaseResultsResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class OpenConsumerRequest(_message.Message):
    __slots__ = ("app_id", "group", "workload")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    group: str
    workload: str
    def __init__(self, app_id: _Optional[str] = ..., group: _Optional[str] = ..., workload: _Optional[str] = ...) -> None: ...

class OpenConsumerResponse(_message.Message):
    __slots__ = ("consumer_id", "group_id", "lease_ttl")
    CONSUMER_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_FIELD_NUMBER: _ClassVar[int]
    consumer_id: str
    group_id: int
    lease_ttl: _duration_pb2.Duration
    def __init__(self, consumer_id: _Optional[str] = ..., group_id: _Optional[int] = ..., lease_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AdvanceConsumerRequest(_message.Message):
    __slots__ = ("consumer_id", "acknowledged", "returned", "held", "limit")
    CONSUMER_ID_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    consumer_id: str
    acknowledged: _containers.RepeatedScalarFieldContainer[int]
    returned: _containers.RepeatedScalarFieldContainer[int]
    held: _containers.RepeatedScalarFieldContainer[int]
    limit: int
    def __init__(self, consumer_id: _Optional[str] = ..., acknowledged: _Optional[_Iterable[int]] = ..., returned: _Optional[_Iterable[int]] = ..., held: _Optional[_Iterable[int]] = ..., limit: _Optional[int] = ...) -> None: ...

class AdvanceConsumerResponse(_message.Message):
    __slots__ = ("deliveries", "filling")
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    filling: bool
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ..., filling: _Optional[bool] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("delivery", "job_id", "batch", "job")
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    delivery: int
    job_id: str
    batch: Batch
    job: _job_pb2.Job
    def __init__(self, delivery: _Optional[int] = ..., job_id: _Optional[str] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class CloseConsumerRequest(_message.Message):
    __slots__ = ("consumer_id", "acknowledged")
    CONSUMER_ID_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    consumer_id: str
    acknowledged: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, consumer_id: _Optional[str] = ..., acknowledged: _Optional[_Iterable[int]] = ...) -> None: ...

class CloseConsumerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkloadsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkloadsResponse(_message.Message):
    __slots__ = ("workloads",)
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedCompositeFieldContainer[_workload_pb2.Workload]
    def __init__(self, workloads: _Optional[_Iterable[_Union[_workload_pb2.Workload, _Mapping]]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("app_id", "workload", "options", "payload", "payload_encoding", "modality", "item_count")
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_ENCODING_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    app_id: str
    workload: str
    options: _item_pb2.EmbeddingOptions
    payload: bytes
    payload_encoding: _item_pb2.PayloadEncoding
    modality: _workload_pb2.Modality
    item_count: int
    def __init__(self, app_id: _Optional[str] = ..., workload: _Optional[str] = ..., options: _Optional[_Union[_item_pb2.EmbeddingOptions, _Mapping]] = ..., payload: _Optional[bytes] = ..., payload_encoding: _Optional[_Union[_item_pb2.PayloadEncoding, str]] = ..., modality: _Optional[_Union[_workload_pb2.Modality, str]] = ..., item_count: _Optional[int] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("chunk", "compute_time", "token_counts")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_TIME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    chunk: _result_pb2.ResultChunk
    compute_time: _timestamp_pb2.Timestamp
    token_counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, chunk: _Optional[_Union[_result_pb2.ResultChunk, _Mapping]] = ..., compute_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., token_counts: _Optional[_Iterable[int]] = ...) -> None: ...
