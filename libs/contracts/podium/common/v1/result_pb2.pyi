from podium.common.v1 import job_pb2 as _job_pb2
from podium.common.v1 import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ItemErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_ERROR_REASON_UNSPECIFIED: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_EMPTY_INPUT: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_TOO_LARGE: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_URL_NOT_ALLOWED: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_FETCH_FAILED: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_UNDECODABLE: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_POISON: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_OUT_OF_MEMORY: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_NOT_FINITE: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_HANDLER: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_UNKNOWN_TOKEN: _ClassVar[ItemErrorReason]
    ITEM_ERROR_REASON_LEFT_OUT: _ClassVar[ItemErrorReason]
ITEM_ERROR_REASON_UNSPECIFIED: ItemErrorReason
ITEM_ERROR_REASON_EMPTY_INPUT: ItemErrorReason
ITEM_ERROR_REASON_TOO_LARGE: ItemErrorReason
ITEM_ERROR_REASON_URL_NOT_ALLOWED: ItemErrorReason
ITEM_ERROR_REASON_FETCH_FAILED: ItemErrorReason
ITEM_ERROR_REASON_UNDECODABLE: ItemErrorReason
ITEM_ERROR_REASON_POISON: ItemErrorReason
ITEM_ERROR_REASON_OUT_OF_MEMORY: ItemErrorReason
ITEM_ERROR_REASON_NOT_FINITE: ItemErrorReason
ITEM_ERROR_REASON_HANDLER: ItemErrorReason
ITEM_ERROR_REASON_UNKNOWN_TOKEN: ItemErrorReason
ITEM_ERROR_REASON_LEFT_OUT: ItemErrorReason

class ItemError(_message.Message):
    __slots__ = ("item_index", "reason", "message")
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    item_index: int
    reason: ItemErrorReason
    message: str
    def __init__(self, item_index: _Optional[int] = ..., reason: _Optional[_Union[ItemErrorReason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Truncation(_message.Message):
    __slots__ = ("item_index", "token_count", "max_tokens")
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    item_index: int
    token_count: int
    max_tokens: int
    def __init__(self, item_index: _Optional[int] = ..., token_count: _Optional[int] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model_name", "revision", "dimension", "dtype", "pooling", "normalized", "precision", "backend")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    revision: str
    dimension: int
    dtype: _workload_pb2.Dtype
    pooling: _workload_pb2.Pooling
    normalized: bool
    precision: str
    backend: str
    def __init__(self, model_name: _Optional[str] = ..., revision: _Optional[str] = ..., dimension: _Optional[int] = ..., dtype: _Optional[_Union[_workload_pb2.Dtype, str]] = ..., pooling: _Optional[_Union[_workload_pb2.Pooling, str]] = ..., normalized: _Optional[bool] = ..., precision: _Optional[str] = ..., backend: _Optional[str] = ...) -> None: ...

class ResultChunk(_message.Message):
    __slots__ = ("job_id", "first_item", "item_count", "vectors", "count", "dimension", "dtype", "crc32c", "errors", "truncations", "keys", "provenance", "batch_first_item", "chunk_index", "last_in_batch", "attempt", "task_outputs")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATIONS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    CHUNK_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_IN_BATCH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TASK_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    first_item: int
    item_count: int
    vectors: bytes
    count: int
    dimension: int
    dtype: _workload_pb2.Dtype
    crc32c: int
    errors: _containers.RepeatedCompositeFieldContainer[ItemError]
    truncations: _containers.RepeatedCompositeFieldContainer[Truncation]
    keys: _containers.RepeatedScalarFieldContainer[str]
    provenance: Provenance
    batch_first_item: int
    chunk_index: int
    last_in_batch: bool
    attempt: int
    task_outputs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, job_id: _Optional[str] = ..., first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., vectors: _Optional[bytes] = ..., count: _Optional[int] = ..., dimension: _Optional[int] = ..., dtype: _Optional[_Union[_workload_pb2.Dtype, str]] = ..., crc32c: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[ItemError, _Mapping]]] = ..., truncations: _Optional[_Iterable[_Union[Truncation, _Mapping]]] = ..., keys: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., batch_first_item: _Optional[int] = ..., chunk_index: _Optional[int] = ..., last_in_batch: _Optional[bool] = ..., attempt: _Optional[int] = ..., task_outputs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class BatchFailure(_message.Message):
    __slots__ = ("job_id", "first_item", "item_count", "reason", "message")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ITEM_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    first_item: int
    item_count: int
    reason: _job_pb2.BatchFailureReason
    message: str
    def __init__(self, job_id: _Optional[str] = ..., first_item: _Optional[int] = ..., item_count: _Optional[int] = ..., reason: _Optional[_Union[_job_pb2.BatchFailureReason, str]] = ..., message: _Optional[str] = ...) -> None: ...
