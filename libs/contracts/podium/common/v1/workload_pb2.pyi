import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_TASK: _ClassVar[Modality]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_CLS: _ClassVar[Pooling]
    POOLING_NONE: _ClassVar[Pooling]

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    DTYPE_FLOAT32: _ClassVar[Dtype]
    DTYPE_FLOAT16: _ClassVar[Dtype]
    DTYPE_INT8: _ClassVar[Dtype]
    DTYPE_BINARY: _ClassVar[Dtype]

class InputType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUT_TYPE_UNSPECIFIED: _ClassVar[InputType]
    INPUT_TYPE_QUERY: _ClassVar[InputType]
    INPUT_TYPE_PASSAGE: _ClassVar[InputType]
MODALITY_UNSPECIFIED: Modality
MODALITY_TEXT: Modality
MODALITY_IMAGE: Modality
MODALITY_TASK: Modality
POOLING_UNSPECIFIED: Pooling
POOLING_MEAN: Pooling
POOLING_CLS: Pooling
POOLING_NONE: Pooling
DTYPE_UNSPECIFIED: Dtype
DTYPE_FLOAT32: Dtype
DTYPE_FLOAT16: Dtype
DTYPE_INT8: Dtype
DTYPE_BINARY: Dtype
INPUT_TYPE_UNSPECIFIED: InputType
INPUT_TYPE_QUERY: InputType
INPUT_TYPE_PASSAGE: InputType

class Workload(_message.Message):
    __slots__ = ("name", "modalities", "dimension", "description", "limits", "batch", "model", "prefixes", "needs", "dtypes", "truncated_dimensions", "accepts_token_ids")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    modalities: _containers.RepeatedScalarFieldContainer[Modality]
    dimension: int
    description: str
    limits: WorkloadLimits
    batch: BatchShape
    model: ModelSpec
    prefixes: TextPrefixes
    needs: DeviceNeeds
    dtypes: _containers.RepeatedScalarFieldContainer[Dtype]
    truncated_dimensions: _containers.RepeatedScalarFieldContainer[int]
    accepts_token_ids: bool
    def __init__(self, name: _Optional[str] = ..., modalities: _Optional[_Iterable[_Union[Modality, str]]] = ..., dimension: _Optional[int] = ..., description: _Optional[str] = ..., limits: _Optional[_Union[WorkloadLimits, _Mapping]] = ..., batch: _Optional[_Union[BatchShape, _Mapping]] = ..., model: _Optional[_Union[ModelSpec, _Mapping]] = ..., prefixes: _Optional[_Union[TextPrefixes, _Mapping]] = ..., needs: _Optional[_Union[DeviceNeeds, _Mapping]] = ..., dtypes: _Optional[_Iterable[_Union[Dtype, str]]] = ..., truncated_dimensions: _Optional[_Iterable[int]] = ..., accepts_token_ids: _Optional[bool] = ...) -> None: ...

class WorkloadLimits(_message.Message):
    __slots__ = ("max_text_bytes", "max_image_bytes", "max_image_pixels", "max_task_bytes")
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_TASK_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_text_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_task_bytes: int
    def __init__(self, max_text_bytes: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_task_bytes: _Optional[int] = ...) -> None: ...

class BatchShape(_message.Message):
    __slots__ = ("max_items", "max_bytes")
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_items: int
    max_bytes: int
    def __init__(self, max_items: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("backend", "model_name", "revision", "local_path", "python_package", "hub_id", "pooling", "normalized", "max_tokens", "precision", "token_budget", "pretrained", "canaries", "architecture", "image_budget")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    PYTHON_PACKAGE_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    PRETRAINED_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BUDGET_FIELD_NUMBER: _ClassVar[int]
    backend: str
    model_name: str
    revision: str
    local_path: str
    python_package: str
    hub_id: str
    pooling: Pooling
    normalized: bool
    max_tokens: int
    precision: str
    token_budget: int
    pretrained: str
    canaries: _containers.RepeatedCompositeFieldContainer[Canary]
    architecture: str
    image_budget: int
    def __init__(self, backend: _Optional[str] = ..., model_name: _Optional[str] = ..., revision: _Optional[str] = ..., local_path: _Optional[str] = ..., python_package: _Optional[str] = ..., hub_id: _Optional[str] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., normalized: _Optional[bool] = ..., max_tokens: _Optional[int] = ..., precision: _Optional[str] = ..., token_budget: _Optional[int] = ..., pretrained: _Optional[str] = ..., canaries: _Optional[_Iterable[_Union[Canary, _Mapping]]] = ..., architecture: _Optional[str] = ..., image_budget: _Optional[int] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("text", "elements", "image")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    elements: _containers.RepeatedScalarFieldContainer[float]
    image: bytes
    def __init__(self, text: _Optional[str] = ..., elements: _Optional[_Iterable[float]] = ..., image: _Optional[bytes] = ...) -> None: ...

class TextPrefixes(_message.Message):
    __slots__ = ("query", "passage", "default_input_type")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_INPUT_TYPE_FIELD_NUMBER: _ClassVar[int]
    query: str
    passage: str
    default_input_type: InputType
    def __init__(self, query: _Optional[str] = ..., passage: _Optional[str] = ..., default_input_type: _Optional[_Union[InputType, str]] = ...) -> None: ...

class DeviceNeeds(_message.Message):
    __slots__ = ("vram_bytes", "min_compute_capability", "load_timeout", "min_cuda_version")
    VRAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_COMPUTE_CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    LOAD_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MIN_CUDA_VERSION_FIELD_NUMBER: _ClassVar[int]
    vram_bytes: int
    min_compute_capability: str
    load_timeout: _duration_pb2.Duration
    min_cuda_version: str
    def __init__(self, vram_bytes: _Optional[int] = ..., min_compute_capability: _Optional[str] = ..., load_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_cuda_version: _Optional[str] = ...) -> None: ...
