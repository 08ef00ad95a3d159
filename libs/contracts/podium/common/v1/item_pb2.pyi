from podium.common.v1 import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PayloadEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYLOAD_ENCODING_UNSPECIFIED: _ClassVar[PayloadEncoding]
    PAYLOAD_ENCODING_IDENTITY: _ClassVar[PayloadEncoding]
    PAYLOAD_ENCODING_LZ4_FRAME: _ClassVar[PayloadEncoding]
PAYLOAD_ENCODING_UNSPECIFIED: PayloadEncoding
PAYLOAD_ENCODING_IDENTITY: PayloadEncoding
PAYLOAD_ENCODING_LZ4_FRAME: PayloadEncoding

class TextItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TextItem]
    def __init__(self, items: _Optional[_Iterable[_Union[TextItem, _Mapping]]] = ...) -> None: ...

class TextItem(_message.Message):
    __slots__ = ("key", "text", "token_ids")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    key: str
    text: str
    token_ids: TokenIds
    def __init__(self, key: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ImageItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ImageItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ImageItem, _Mapping]]] = ...) -> None: ...

class ImageItem(_message.Message):
    __slots__ = ("key", "url", "data")
    KEY_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    key: str
    url: str
    data: bytes
    def __init__(self, key: _Optional[str] = ..., url: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class TaskItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TaskItem]
    def __init__(self, items: _Optional[_Iterable[_Union[TaskItem, _Mapping]]] = ...) -> None: ...

class TaskItem(_message.Message):
    __slots__ = ("key", "input", "content_type")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    key: str
    input: bytes
    content_type: str
    def __init__(self, key: _Optional[str] = ..., input: _Optional[bytes] = ..., content_type: _Optional[str] = ...) -> None: ...

class EmbeddingOptions(_message.Message):
    __slots__ = ("input_type", "dimensions", "dtype")
    INPUT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    input_type: _workload_pb2.InputType
    dimensions: int
    dtype: _workload_pb2.Dtype
    def __init__(self, input_type: _Optional[_Union[_workload_pb2.InputType, str]] = ..., dimensions: _Optional[int] = ..., dtype: _Optional[_Union[_workload_pb2.Dtype, str]] = ...) -> None: ...
