"""Every rule of a request, on the wire: the status code and the path of the bad field."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from tests.integration import gateway_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

Request = gateway_pb2.SubmitBatchRequest
Mutation = Callable[[Request], Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.rig(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def _texts(*texts: str) -> item_pb2.TextItems:
    return item_pb2.TextItems(items=[item_pb2.TextItem(text=text) for text in texts])


def _keys(*keys: str) -> item_pb2.TextItems:
    return item_pb2.TextItems(items=[item_pb2.TextItem(key=key, text="x") for key in keys])


def _set(**fields: Any) -> Mutation:
    def mutate(request: Request) -> None:
        for name in fields:
            request.ClearField(name)
        request.MergeFrom(Request(**fields))

    return mutate


def _images(*images: item_pb2.ImageItem) -> Mutation:
    return _set(workload="pictures", images=item_pb2.ImageItems(items=images))


def _tasks(*tasks: item_pb2.TaskItem) -> Mutation:
    return _set(workload="tasks", tasks=item_pb2.TaskItems(items=tasks))


def _options(workload: str, **options: Any) -> Mutation:
    return _set(workload=workload, options=item_pb2.EmbeddingOptions(**options))


def _window(seconds: int, nanos: int = 0) -> Mutation:
    def mutate(request: Request) -> None:
        request.completion_window.seconds = seconds
        request.completion_window.nanos = nanos

    return mutate


BAD: dict[str, tuple[Mutation, list[str]]] = {
    "no request_id": (_set(request_id=""), ["request_id"]),
    "request_id that is no UUID": (_set(request_id="42"), ["request_id"]),
    "request_id with a brace": (_set(request_id="{" + str(uuid.uuid4()) + "}"), ["request_id"]),
    "no workload": (_set(workload=""), ["workload"]),
    "unknown workload": (_set(workload="nobody-knows"), ["workload"]),
    "items not set": (lambda r: r.ClearField("texts"), ["items"]),
    "empty batch": (_set(texts=item_pb2.TextItems()), ["items"]),
    "empty batch of images": (_set(workload="pictures", images=item_pb2.ImageItems()), ["items"]),
    "more than 50,000 items": (_set(texts=_texts(*["x"] * 50_001)), ["texts.items"]),
    "an empty text": (_set(texts=_texts("a", "", "c")), ["texts.items[1].text"]),
    "a text over the limit": (_set(texts=_texts("a", "b" * 101)), ["texts.items[1].text"]),
    "a text over the limit in bytes only": (_set(texts=_texts("é" * 51)), ["texts.items[0].text"]),
    "duplicate keys": (_set(texts=_keys("a", "b", "a")), ["texts.items[2].key"]),
    "duplicate keys among empty ones": (_set(texts=_keys("", "b", "", "b")), ["texts.items[3].key"]),
    "a key over 256 bytes": (_set(texts=_keys("a", "k" * 257)), ["texts.items[1].key"]),
    "a key over 256 bytes in UTF-8": (_set(texts=_keys("é" * 129)), ["texts.items[0].key"]),
    "images for a text workload": (
        _set(images=item_pb2.ImageItems(items=[item_pb2.ImageItem(url="u")])),
        ["images"],
    ),
    "texts for an image workload": (_set(workload="pictures"), ["texts"]),
    "tasks for a text workload": (
        _set(tasks=item_pb2.TaskItems(items=[item_pb2.TaskItem(input=b"x")])),
        ["tasks"],
    ),
    "an image without url or data": (_images(item_pb2.ImageItem(key="a")), ["images.items[0].image"]),
    "an image with empty data": (_images(item_pb2.ImageItem(data=b"")), ["images.items[0].image"]),
    "an image of another scheme": (_images(item_pb2.ImageItem(url="file:///etc/x")), ["images.items[0].url"]),
    "an image with a long URL": (_images(item_pb2.ImageItem(url="http://h/" + "a" * 8184)), ["images.items[0].url"]),
    "an image with a line break in its URL": (
        _images(item_pb2.ImageItem(url="http://h/a"), item_pb2.ImageItem(url="http://h/\r\nX: y")),
        ["images.items[1].url"],
    ),
    "an image without a host": (_images(item_pb2.ImageItem(url="https:///a.png")), ["images.items[0].url"]),
    "an image over the limit": (_images(item_pb2.ImageItem(data=b"x" * 51)), ["images.items[0].data"]),
    "images with duplicate keys": (
        _images(*[item_pb2.ImageItem(key="a", url="http://h/i.png")] * 2),
        ["images.items[1].key"],
    ),
    "a task over the limit": (_tasks(item_pb2.TaskItem(input=b"x" * 21)), ["tasks.items[0].input"]),
    "priority 0": (_set(priority=0), ["priority"]),
    "priority 6": (_set(priority=6), ["priority"]),
    "a bad label key": (_set(labels={"Bad Key": "x"}), ["labels[Bad Key]"]),
    "a long label value": (_set(labels={"team": "x" * 257}), ["labels[team]"]),
    "too many labels": (_set(labels={f"l{n}": "" for n in range(33)}), ["labels"]),
    "input_type unspecified": (_options("e5", input_type=0), ["options.input_type"]),
    "input_type of tomorrow": (_options("e5", input_type=77), ["options.input_type"]),
    "input_type for a symmetric model": (_options("texts", input_type=1), ["options.input_type"]),
    "fewer dimensions": (_options("texts", dimensions=2), ["options.dimensions"]),
    "dtype unspecified": (_options("texts", dtype=0), ["options.dtype"]),
    "dtype not supported": (_options("texts", dtype=3), ["options.dtype"]),
    "dtype that the workload does not offer": (_options("short", dtype=4), ["options.dtype"]),
    "dtype of tomorrow": (_options("short", dtype=77), ["options.dtype"]),
    "dimensions between those there are": (_options("short", dimensions=1), ["options.dimensions"]),
    "more dimensions than there are": (_options("short", dimensions=5), ["options.dimensions"]),
    "both wrong": (_options("short", dimensions=0, dtype=4), ["options.dimensions", "options.dtype"]),
    "a window under a second": (_window(0, 999_999_999), ["completion_window"]),
    "a negative window": (_window(-5), ["completion_window"]),
    "a budget of nothing": (_set(budget_usd=0.0), ["budget_usd"]),
    "a budget below a cent": (_set(budget_usd=0.0099), ["budget_usd"]),
    "a negative budget": (_set(budget_usd=-1.0), ["budget_usd"]),
    "a budget that is no number": (_set(budget_usd=float("nan")), ["budget_usd"]),
    "a budget without end": (_set(budget_usd=float("inf")), ["budget_usd"]),
    "a budget beyond all means": (_set(budget_usd=1_000_000.01), ["budget_usd"]),
    "a window beyond any calendar": (_window(315_576_000_000), ["completion_window"]),
}


async def _refused(rig: gateway_rig.Rig, request: Request) -> grpc.aio.AioRpcError:
    before = len(rig.ledger.admissions)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.SubmitBatch(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    assert len(rig.ledger.admissions) == before, "a bad job reached the scheduler"
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert gateway_rig.reason(caught.value) == "INVALID_ARGUMENT"
    return caught.value


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_submission_names_its_field(rig: gateway_rig.Rig, name: str) -> None:
    mutate, expected = BAD[name]
    request = gateway_rig.submission()
    mutate(request)
    error = await _refused(rig, request)
    assert gateway_rig.fields(error) == expected


async def test_all_violations_come_in_one_answer(rig: gateway_rig.Rig) -> None:
    request = gateway_rig.submission(request_id="x", priority=9, labels={"": "v"}, texts=_texts("", "y" * 101))
    error = await _refused(rig, request)
    assert gateway_rig.fields(error) == [
        "request_id",
        "priority",
        "labels[]",
        "texts.items[3].text",
        "texts.items[4].text",
    ]


async def test_at_most_a_hundred_violations_are_reported(rig: gateway_rig.Rig) -> None:
    request = gateway_rig.submission(0, texts=_texts(*[""] * 500))
    error = await _refused(rig, request)
    assert gateway_rig.fields(error) == [f"texts.items[{n}].text" for n in range(100)]


async def test_a_text_of_exactly_the_limit_is_taken(rig: gateway_rig.Rig) -> None:
    request = gateway_rig.submission(0, texts=_texts("b" * 100, "é" * 50))
    await rig.stub.SubmitBatch(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)


async def test_options_that_a_workload_offers_are_carried(rig: gateway_rig.Rig) -> None:
    options = item_pb2.EmbeddingOptions(dimensions=2, dtype=workload_pb2.DTYPE_INT8)
    request = gateway_rig.submission(1, workload="short", options=options)
    await rig.stub.SubmitBatch(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    assert rig.ledger.admissions[-1].options == options


async def test_workloads_say_what_they_offer(rig: gateway_rig.Rig) -> None:
    listed = await rig.stub.ListWorkloads(gateway_pb2.ListWorkloadsRequest(), metadata=rig.metadata)
    short = next(w for w in listed.workloads if w.name == "short")
    assert [workload_pb2.Dtype.Name(d) for d in short.dtypes] == ["DTYPE_FLOAT32", "DTYPE_FLOAT16", "DTYPE_INT8"]
    assert list(short.truncated_dimensions) == [2, 3]


async def test_fifty_thousand_items_are_taken(rig: gateway_rig.Rig) -> None:
    request = gateway_rig.submission(50_000)
    answer = await rig.stub.SubmitBatch(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    assert answer.job.progress.items_total == 50_000


@pytest.mark.parametrize("method", ["GetJob", "CancelJob", "WatchJob", "StreamResults"])
async def test_a_job_id_that_is_no_uuid(rig: gateway_rig.Rig, method: str) -> None:
    request = {
        "GetJob": gateway_pb2.GetJobRequest,
        "CancelJob": gateway_pb2.CancelJobRequest,
        "WatchJob": gateway_pb2.WatchJobRequest,
        "StreamResults": gateway_pb2.StreamResultsRequest,
    }[method](job_id="7")
    call: Any = getattr(rig.stub, method)(request, metadata=rig.metadata, timeout=gateway_rig.STEP_S)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway_rig.fields(caught.value) == ["job_id"]


BAD_LISTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "page size": ({"page_size": 1001}, ["page_size"]),
    "page token": ({"page_token": "not one"}, ["page_token"]),
    "unspecified state": ({"states": [1, 0]}, ["states[1]"]),
    "unknown state": ({"states": [99]}, ["states[0]"]),
    "label key": ({"labels": {"A": "b"}}, ["labels[A]"]),
}


@pytest.mark.parametrize("name", BAD_LISTS)
async def test_a_bad_list_request_names_its_field(rig: gateway_rig.Rig, name: str) -> None:
    fields, expected = BAD_LISTS[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.ListJobs(gateway_pb2.ListJobsRequest(**fields), metadata=rig.metadata)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway_rig.fields(caught.value) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"page_size": 1001}, ["page_size"]),
        ({"page_token": "%%"}, ["page_token"]),
        ({"page_token": "eA=="}, ["page_token"]),
    ],
)
async def test_a_bad_workload_list_names_its_field(
    rig: gateway_rig.Rig, fields: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.stub.ListWorkloads(gateway_pb2.ListWorkloadsRequest(**fields), metadata=rig.metadata)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert gateway_rig.fields(caught.value) == expected


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["garbage", "not UTF-8"])
async def test_a_request_that_does_not_parse(rig: gateway_rig.Rig, raw: bytes) -> None:
    submit: Any = rig.channel.unary_unary("/podium.gateway.v1.GatewayService/SubmitBatch")
    for metadata, code in (
        (rig.metadata, grpc.StatusCode.INVALID_ARGUMENT),
        ((), grpc.StatusCode.UNAUTHENTICATED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(raw, metadata=metadata)
        assert caught.value.code() is code
