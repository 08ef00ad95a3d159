"""The real `openai` package, and LangChain's client on top of it, against the edge over real HTTP."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
import openai
import pydantic
import pytest
from langchain_openai import OpenAIEmbeddings

from podium.common.v1 import workload_pb2
from podium_runtime import errors
from tests.support import http_edge
from tests.support.http_edge import Edge, Lane, vector_of

WAIT_S = 20.0
ResultT = TypeVar("ResultT")


@asynccontextmanager
async def client_of(edge: Edge, token: str = "token-of-a", **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=edge.base_url, api_key=token, **{"max_retries": 0} | options) as client:
        yield client


async def in_thread(edge: Edge, work: Callable[[openai.OpenAI], ResultT]) -> ResultT:
    """Runs `work` with a synchronous client, beside the event loop that serves it."""

    def run() -> ResultT:
        with openai.OpenAI(base_url=edge.base_url, api_key="token-of-a", max_retries=0) as client:
            return work(client)

    return await asyncio.wait_for(asyncio.to_thread(run), WAIT_S)


def body_of(error: openai.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict) and set(error.body) == {"message", "type", "param", "code"}
    return error.body


async def test_a_string_with_the_sync_client() -> None:
    async with http_edge.edge() as edge:
        answer = await in_thread(edge, lambda client: client.embeddings.create(model="texts", input="one two"))
    # The client asks for base64 by default, and decodes it.
    assert np.array_equal(np.asarray(answer.data[0].embedding, dtype=np.float32), vector_of("one two"))
    assert answer.object == "list" and answer.data[0].object == "embedding" and answer.data[0].index == 0
    assert answer.model == "texts"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
    assert edge.lane.calls[0][0].app_id == "app-a"


@pytest.mark.parametrize("options", [{}, {"encoding_format": "base64"}, {"encoding_format": "float"}])
async def test_a_long_list_keeps_its_order(options: dict[str, Any]) -> None:
    texts = [f"text {n}" for n in range(2048)]
    async with http_edge.edge() as edge, client_of(edge) as client:
        answer = await client.embeddings.create(model="texts", input=texts, **options)
    rows = [item.embedding for item in answer.data]
    if options.get("encoding_format") == "base64":
        # Asked for by name, it is passed on as it came.
        rows = [np.frombuffer(base64.b64decode(str(row)), dtype="<f4").tolist() for row in rows]
    assert np.array_equal(np.asarray(rows, dtype=np.float32), [vector_of(text) for text in texts])
    assert [item.index for item in answer.data] == list(range(2048))
    assert answer.usage.total_tokens == 4 * 2048
    assert max(len(http_edge.texts_of(request)) for _, request in edge.lane.calls) == 64
    assert len(edge.lane.calls) == 32
    assert 1 < edge.lane.most_at_once <= 4


async def test_dimensions_and_the_extension_input_type_reach_the_workload() -> None:
    async with http_edge.edge() as edge, client_of(edge) as client:
        answer = await client.embeddings.create(
            model="texts", input=["a"], dimensions=2, user="somebody", extra_body={"input_type": "query"}
        )
    assert np.array_equal(np.asarray(answer.data[0].embedding, dtype=np.float32), vector_of("a", 2))
    options = http_edge.options_of(edge.lane.calls[0][1])
    assert (options.dimensions, options.input_type) == (2, workload_pb2.INPUT_TYPE_QUERY)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "dimensions": -1}, "dimensions"),
        ({"input": ""}, "input"),
        ({"input": ["a"] * 70 + [""]}, "input[70]"),
        ({"input": ["a", "b" * 100_001]}, "input[1]"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": [1, -2, 3]}, "input[1]"),
        ({"input": [[1, 2], [3, 1 << 32]]}, "input[1][1]"),
        ({"input": [[1, 2], []]}, "input[1]"),
        ({"input": [[1, 2], "a"]}, "input[1]"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "extra_body": {"truncate": "END"}}, "truncate"),
        ({"input": "a", "extra_body": {"input_type": "title"}}, "input_type"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_computed(request_: dict[str, Any], param: str) -> None:
    async with http_edge.edge() as edge, client_of(edge) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="texts", **request_)
    error = body_of(refused.value)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert edge.lane.calls == []


async def test_token_ids_are_refused_with_what_to_do() -> None:
    async with http_edge.edge() as edge, client_of(edge) as client:
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
            await client.embeddings.create(model="texts", input=[[1, 2], [3]])
    assert body_of(refused.value)["code"] == "token_ids_not_accepted"
    assert edge.lane.calls == []


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
async def test_token_ids_where_the_workload_takes_them(options: dict[str, Any]) -> None:
    many = [[n, n + 1, n + 2] for n in range(200)]
    async with http_edge.edge() as edge, client_of(edge) as client:
        one = await client.embeddings.create(model="tokens", input=[7, 8, 9], **options)
        answer = await client.embeddings.create(model="tokens", input=many, **options)
    assert np.array_equal(np.asarray(one.data[0].embedding, dtype=np.float32), vector_of("7 8 9"))
    assert (len(one.data), one.usage.total_tokens) == (1, 3 + 2)
    rows = np.asarray([item.embedding for item in answer.data], dtype=np.float32)
    assert np.array_equal(rows, [vector_of(" ".join(map(str, ids))) for ids in many])
    assert answer.usage.total_tokens == 5 * 200
    assert [ids for _, request in edge.lane.calls for ids in http_edge.ids_of(request)] == [[7, 8, 9], *many]


@pytest.mark.parametrize(
    ("input_", "param", "code"),
    [
        ([1, http_edge.VOCABULARY], "input", "unknown_token"),
        ([[1]] * 70 + [[http_edge.VOCABULARY]], "input[70]", "unknown_token"),
        ([1] * (http_edge.MAX_TOKEN_IDS + 1), "input", "invalid_argument"),
        ([[1], [1] * (http_edge.MAX_TOKEN_IDS + 1)], "input[1]", "invalid_argument"),
    ],
)
async def test_token_ids_that_are_not_the_models(input_: Any, param: str, code: str) -> None:
    async with http_edge.edge() as edge, client_of(edge) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="tokens", input=input_)
    error = body_of(refused.value)
    assert (error["param"], error["code"]) == (param, code)
    # Whoever sends another tokenizer's ids is told how not to.
    assert ("check_embedding_ctx_length=False" in error["message"]) == (code == "unknown_token")


async def test_an_item_without_a_vector_fails_the_request_by_its_index() -> None:
    lane = Lane(bad_texts=frozenset({"bad"}))
    async with http_edge.edge(lane) as edge, client_of(edge) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="texts", input=["good"] * 130 + ["bad"])
    error = body_of(refused.value)
    assert (error["param"], error["code"]) == ("input[130]", "empty_input")
    assert "input[130]" in error["message"]


async def test_errors_that_are_told_by_their_own_classes() -> None:
    async with http_edge.edge() as edge, client_of(edge) as client, client_of(edge, "wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as unauthenticated:
            await stranger.embeddings.create(model="texts", input="a")
        assert body_of(unauthenticated.value)["code"] == "invalid_api_key"
        for model in ("nothing", "pictures"):
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.embeddings.create(model=model, input="a")
            assert body_of(unknown.value)["code"] == "model_not_found"
            assert body_of(unknown.value)["param"] == "model"
            assert unknown.value.request_id is not None and unknown.value.request_id.startswith("req_")
        with pytest.raises(openai.NotFoundError) as unrouted:
            await client.chat.completions.create(model="texts", messages=[{"role": "user", "content": "hello"}])
        assert body_of(unrouted.value)["code"] == "unknown_url"


async def test_a_crash_is_an_error_without_its_words() -> None:
    edge_lane = Lane()
    edge_lane.refusals.append(RuntimeError("secret"))
    async with http_edge.edge(edge_lane) as edge, client_of(edge) as client:
        with pytest.raises(openai.InternalServerError) as crashed:
            await client.embeddings.create(model="texts", input="a")
    assert crashed.value.status_code == 500 and "secret" not in str(crashed.value.body)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (errors.ResourceExhausted("full", retry_after_s=0.05, reason="APP_EMBED_LIMIT"), openai.RateLimitError),
        (errors.Unavailable("away", retry_after_s=0.05, reason="SCHEDULER_UNAVAILABLE"), openai.InternalServerError),
    ],
)
async def test_a_refusal_is_tried_again_when_it_says(
    refusal: errors.ResourceExhausted | errors.Unavailable,
    kind: type[openai.APIStatusError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    lane = Lane()
    async with http_edge.edge(lane) as edge, client_of(edge, max_retries=2) as client:
        monkeypatch.setattr("openai._base_client.anyio.sleep", sleep)
        lane.refusals.extend([refusal, refusal])
        answer = await client.embeddings.create(model="texts", input="a")
        assert np.array_equal(np.asarray(answer.data[0].embedding, dtype=np.float32), vector_of("a"))
        assert waits == [0.05, 0.05]
        lane.refusals.append(refusal)
        with pytest.raises(kind) as refused:
            await client.with_options(max_retries=0).embeddings.create(model="texts", input="a")
    assert refused.value.response.headers["retry-after"] == "1"
    assert refused.value.response.headers["retry-after-ms"] == "50"
    assert refused.value.response.headers["x-podium-reason"] == refusal.reason


async def test_a_cold_model_is_waited_for_here_or_by_the_client() -> None:
    lane = Lane()
    async with http_edge.edge(lane) as edge, client_of(edge) as client:
        lane.refusals.append(errors.Unavailable("cold", retry_after_s=1, reason="NO_WARM_WORKER"))
        answer = await client.embeddings.create(model="texts", input="a")
        assert len(answer.data) == 1
        lane.refusals.append(errors.Unavailable("cold", retry_after_s=60, reason="NO_WARM_WORKER"))
        with pytest.raises(openai.InternalServerError) as refused:
            await client.embeddings.create(model="texts", input="a")
    assert body_of(refused.value)["code"] == "no_warm_worker"
    assert refused.value.response.headers["retry-after"] == "60"


async def test_a_request_shrinks_before_it_is_refused() -> None:
    lane = Lane(room=1)
    texts = [f"text {n}" for n in range(640)]
    async with http_edge.edge(lane) as edge, client_of(edge) as client:
        answer = await client.embeddings.create(model="texts", input=texts)
    assert np.array_equal(
        np.asarray([item.embedding for item in answer.data], dtype=np.float32), [vector_of(t) for t in texts]
    )
    assert lane.most_at_once == 1


async def test_a_client_that_has_waited_enough_is_dropped() -> None:
    lane = Lane(gate=asyncio.Event())
    async with http_edge.edge(lane) as edge, client_of(edge, timeout=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.embeddings.create(model="texts", input=["a"] * 200)
        await asyncio.wait_for(lane.cancelled.wait(), WAIT_S)
    # What it says it waits is the time its calls have.
    assert all(left is not None and left <= 0.3 for left in lane.remaining_s)


async def test_models() -> None:
    async with http_edge.edge() as edge, client_of(edge) as client:
        models = await client.models.list()
        assert [(m.id, m.object, m.owned_by) for m in models.data] == [
            ("texts", "model", "podium"),
            ("tokens", "model", "podium"),
        ]
        assert (await client.models.retrieve("texts")).id == "texts"
        for model in ("pictures", "nothing"):
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve(model)


async def test_langchain_on_top() -> None:
    # Its own clients are never closed.
    with openai.DefaultHttpxClient() as own:
        async with http_edge.edge() as edge, openai.DefaultAsyncHttpxClient() as own_async:
            await _use_langchain(edge, own, own_async)


async def _use_langchain(edge: Edge, own: Any, own_async: Any) -> None:
    embeddings = OpenAIEmbeddings(
        model="texts",
        base_url=edge.base_url,
        api_key=pydantic.SecretStr("token-of-a"),
        check_embedding_ctx_length=False,
        chunk_size=100,
        http_client=own,
        http_async_client=own_async,
    )
    documents = [f"document {n}" for n in range(250)]
    rows = await asyncio.wait_for(asyncio.to_thread(embeddings.embed_documents, documents), WAIT_S)
    assert np.array_equal(np.asarray(rows, dtype=np.float32), [vector_of(text) for text in documents])
    query = await embeddings.aembed_query("question")
    assert np.array_equal(np.asarray(query, dtype=np.float32), vector_of("question"))
