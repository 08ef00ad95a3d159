"""Podium's Python SDK: submit inputs, get vectors in order.

from podium_client import Client

with Client() as podium:
    vectors = podium.embed_texts(["first text", "second text"], workload="minilm").vectors
    pictures = podium.embed_images(["https://example.org/a.jpg", Path("b.png")], workload="clip-vit-b-32").vectors
"""

from podium_client.aio import AsyncClient
from podium_client.config import Endpoint, Tls, data_dir, resolve_endpoint
from podium_client.consuming import DEFAULT_WINDOW, Delivery, JobDelivery, ResultDelivery
from podium_client.embedding import CallProgress
from podium_client.encodings import Dtype, Layout
from podium_client.errors import (
    ConfigurationError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    ItemsFailed,
    JobCancelled,
    JobExpired,
    JobNotFound,
    NotFound,
    NotImplementedByService,
    Overloaded,
    PermissionDenied,
    PodiumError,
    ProtocolError,
    RequestIdConflict,
    ResultsReleased,
    ResultsUnacknowledged,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Violation,
)
from podium_client.items import ImageLike, TextLike
from podium_client.jobs import Job, JobState, Progress, Workload
from podium_client.results import Embeddings, ItemError, Provenance, ResultChunk, Summary, Truncation
from podium_client.retry import RetryPolicy
from podium_client.sinks import JsonlSink, MemorySink, NpySink, Outcome, ParquetSink, Sink, open_sink
from podium_client.sync import Client

__all__ = [
    "DEFAULT_WINDOW",
    "AsyncClient",
    "CallProgress",
    "Client",
    "ConfigurationError",
    "DeadlineExceeded",
    "Delivery",
    "Dtype",
    "Embeddings",
    "Endpoint",
    "FailedPrecondition",
    "ImageLike",
    "InvalidInput",
    "ItemError",
    "ItemsFailed",
    "Job",
    "JobCancelled",
    "JobDelivery",
    "JobExpired",
    "JobNotFound",
    "JobState",
    "JsonlSink",
    "Layout",
    "MemorySink",
    "NotFound",
    "NotImplementedByService",
    "NpySink",
    "Outcome",
    "Overloaded",
    "ParquetSink",
    "PermissionDenied",
    "PodiumError",
    "Progress",
    "ProtocolError",
    "Provenance",
    "RequestIdConflict",
    "ResultChunk",
    "ResultDelivery",
    "ResultsReleased",
    "ResultsUnacknowledged",
    "RetryPolicy",
    "ServiceError",
    "Sink",
    "Summary",
    "TextLike",
    "Tls",
    "Truncation",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "Workload",
    "data_dir",
    "open_sink",
    "resolve_endpoint",
]
