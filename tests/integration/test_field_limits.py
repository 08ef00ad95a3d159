"""No number and no string of a request is an internal error: every field of every call, at its extremes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium.operator.v1 import operator_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_runtime import auth, errors, statuses
from tests.support import stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXTREMES: dict[int, list[int]] = {
    FieldDescriptor.TYPE_UINT32: [(1 << 31) - 1, 1 << 31, (1 << 32) - 1],
    FieldDescriptor.TYPE_INT32: [-(1 << 31), -1, (1 << 31) - 1],
    FieldDescriptor.TYPE_ENUM: [-1, 999, (1 << 31) - 1],
    FieldDescriptor.TYPE_UINT64: [1 << 63, (1 << 64) - 1],
    FieldDescriptor.TYPE_INT64: [-(1 << 63), -1, (1 << 63) - 1],
}
WORDS = ["\x00", "nul\x00inside", "x" * 100_000]
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True)
class Target:
    """A service, where it is and how one calls it."""

    service: ServiceDescriptor
    channel: grpc.aio.Channel
    token: str

    async def call(self, method: MethodDescriptor, request: Message) -> Message:
        """The answer, or the first of them. Raises grpc.aio.AioRpcError."""
        kind: Any = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = kind(
            f"/{self.service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )(request, metadata=auth.authorization(self.token), timeout=20)
        found: Message = await (call.read() if method.server_streaming else call)
        if method.server_streaming:
            call.cancel()
        return found


@dataclass(frozen=True)
class Running:
    gateway: Target
    scheduler: Target
    operator: Target
    job_id: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with stack.running(tmp_path_factory.mktemp("limits"), workers=0) as started:
        async with (
            grpc.aio.insecure_channel(started.gateway.address) as edge,
            grpc.aio.insecure_channel(started.scheduler.address) as inner,
        ):
            services = gateway_pb2.DESCRIPTOR, scheduler_pb2.DESCRIPTOR, operator_pb2.DESCRIPTOR
            found = [file.services_by_name[next(iter(file.services_by_name))] for file in services]
            gateway = Target(found[0], edge, stack.APP_TOKEN)
            scheduler = Target(found[1], inner, stack.INTERNAL_TOKEN)
            admitted: Any = await scheduler.call(found[1].methods_by_name["AdmitJob"], _admit())
            yield Running(gateway, scheduler, Target(found[2], inner, stack.OPERATOR_TOKEN), admitted.job.job_id)


def _admit() -> scheduler_pb2.AdmitJobRequest:
    request = scheduler_pb2.AdmitJobRequest(
        app_id="default",
        request_id=str(uuid.uuid4()),
        payload_digest=b"digest",
        workload="hash-384",
        modality=workload_pb2.MODALITY_TEXT,
        priority=3,
        labels={"a": "b"},
        budget_usd=1.0,
    )
    request.completion_window.FromSeconds(3_600)
    payload = item_pb2.TextItems(items=[item_pb2.TextItem(text="a")]).SerializeToString()
    encoding = item_pb2.PAYLOAD_ENCODING_IDENTITY
    request.batches.add(first_item=0, item_count=1, payload=payload, payload_encoding=encoding)
    return request


def _submit() -> gateway_pb2.SubmitBatchRequest:
    request = gateway_pb2.SubmitBatchRequest(
        request_id=str(uuid.uuid4()), workload="hash-384", labels={"a": "b"}, priority=3, budget_usd=1.0
    )
    request.options.SetInParent()
    request.completion_window.FromSeconds(3_600)
    request.texts.items.add(text="a", key="k")
    return request


def valid(method: MethodDescriptor, job_id: str) -> Message:
    """A request that says something in each field that matters."""
    if method.name == "AdmitJob":
        return _admit()
    if method.name == "SubmitBatch":
        return _submit()
    request = GetMessageClass(method.input_type)()
    known = {"app_id": "default", "job_id": job_id, "worker_id": job_id, "token_id": job_id}
    for name, value in known.items():
        if name in method.input_type.fields_by_name:
            setattr(request, name, value)
    if "labels" in method.input_type.fields_by_name:
        request.labels["a"] = "b"  # type: ignore[attr-defined]
    if method.name in ("CreateApp", "UpdateApp"):
        request.app.app_id, request.app.weight = "default", 1  # type: ignore[attr-defined]
    return request


def extremes(message: Message, path: str = "") -> Iterator[tuple[str, object]]:
    """Sets one field after the other to its extremes, and back; yields while one is set."""
    for field in message.DESCRIPTOR.fields:
        name = f"{path}{field.name}"
        current = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for words in WORDS:
                current["a"] = words
                yield name, words
            current["a"] = "b"
        elif field.message_type is not None:
            parts = current if field.is_repeated else [current] if message.HasField(field.name) else []
            for part in parts:
                yield from extremes(part, f"{name}.")
        else:
            yield from _scalars(message, field, name)


def _scalars(message: Message, field: Any, name: str) -> Iterator[tuple[str, object]]:
    values: list[Any] = [*(WORDS if field.type == FieldDescriptor.TYPE_STRING else EXTREMES.get(field.type, []))]
    before = type(message)()
    before.CopyFrom(message)
    for value in values:
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
        yield name, value
        message.CopyFrom(before)


async def faults(target: Target, job_id: str) -> tuple[list[str], int]:
    """Which extremes of which field are taken for the server's fault, and how many were tried."""
    found, tried = [], 0
    for method in target.service.methods:
        if method.client_streaming:
            continue
        request = valid(method, job_id)
        for name, value in extremes(request):
            if hasattr(request, "request_id") and name != "request_id":
                request.request_id = str(uuid.uuid4())
            tried += 1
            try:
                await target.call(method, request)
            except grpc.aio.AioRpcError as error:
                if error.code() in FAULTS:
                    found.append(f"{method.name} {name}={str(value)[:20]!r}: {error.code().name} {error.details()}")
    return found, tried


@pytest.mark.parametrize("side", ["gateway", "scheduler", "operator"])
async def test_no_extreme_of_a_field_is_the_servers_fault(running: Running, side: str) -> None:
    found, tried = await faults(getattr(running, side), running.job_id)
    assert not found, "\n".join(found)
    assert tried >= 30


@pytest.mark.parametrize(("name", "field"), [("ListBatches", "from_item"), ("ReleaseResults", "before_item")])
async def test_a_place_beyond_every_job_names_the_field(running: Running, name: str, field: str) -> None:
    method = running.scheduler.service.methods_by_name[name]
    request = valid(method, running.job_id)
    setattr(request, field, 1 << 31)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.scheduler.call(method, request)
    refused = statuses.from_rpc_error(caught.value)
    assert isinstance(refused, errors.InvalidArgument)
    assert [v.field for v in refused.violations] == [field]
