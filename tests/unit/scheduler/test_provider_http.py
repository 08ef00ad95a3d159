"""Calls to clouds: what an answer, or the lack of one, says of the call; and what nobody gets to read."""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pydantic
import pytest
import structlog

from podium_scheduler.adapters.providers import http
from podium_scheduler.app import providers
from tests.support.image_server import ImageServer

KEY = "rpa_0123456789abcdef"
DATE = "Fri, 20 Nov 2026 10:00:00 GMT"
EPOCH = 1_795_168_800
"""The same."""
SECRET = 'first line of it\nsecond "line" of it'


@pytest.fixture
async def server() -> AsyncIterator[ImageServer]:
    async with ImageServer() as serving:
        yield serving


@pytest.fixture
async def session(server: ImageServer) -> AsyncIterator[http.Session]:
    opened = http.Session("Nimbus", server.url(""), pydantic.SecretStr(KEY), http.Patience(total_s=20.0))
    try:
        yield opened
    finally:
        await opened.close()


def said(server: ImageServer, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """What the only path answers."""
    server.serve("/x", json.dumps(body).encode(), status=status, headers=headers, content_type="application/json")


async def test_a_call_bears_the_key_and_the_name_of_who_calls(server: ImageServer, session: http.Session) -> None:
    said(server, {"a": [1]})
    answer = await session.call("GET", "/x", query={"limit": "7"})
    assert (answer.status, answer.body, answer.is_good) == (200, {"a": [1]}, True)
    [request] = server.seen
    assert request.path == "/x?limit=7"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("podium-scheduler/")


async def test_a_redirect_is_not_followed(server: ImageServer, session: http.Session) -> None:
    """It would take the key along."""
    server.redirect("/x", server.url("/elsewhere"))
    answer = await session.call("GET", "/x")
    assert type(answer.failure()) is providers.Ambiguous
    assert [request.path for request in server.seen] == ["/x"]


async def test_nothing_is_sent_before_hands_are_shaken(server: ImageServer) -> None:
    """A server that speaks no TLS never comes to an end with it."""
    address = server.url("").replace("http:", "https:")
    opened = http.Session("Nimbus", address, pydantic.SecretStr(KEY), http.Patience(connect_s=0.2, total_s=20.0))
    try:
        with pytest.raises(providers.Unreachable):
            await opened.call("POST", "/x", body={})
    finally:
        await opened.close()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"], id="half a body"),
        pytest.param([b"hello, Authorization\r\n\r\n"], id="no HTTP"),
        pytest.param([b"HTTP/1.1 201 Created\r\nContent-Length: x\r\n\r\n"], id="a header that is none"),
    ],
)
async def test_an_answer_that_breaks_off_leaves_open_what_was_done(
    server: ImageServer, session: http.Session, answer: list[bytes]
) -> None:
    server.raw("/x", answer)
    with pytest.raises(providers.Ambiguous) as raised:
        await session.call("POST", "/x", body={})
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert len(server.seen) == 1, "a create call is never sent twice"


async def test_an_answer_without_end_is_given_up(server: ImageServer, session: http.Session) -> None:
    server.endless("/x")
    with pytest.raises(providers.Ambiguous):
        await session.call("GET", "/x")


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {"Retry-After": "12"}, 12.0),
        (503, {"Retry-After": "12"}, 12.0),
        (429, {"Retry-After": "Fri, 20 Nov 2026 10:01:30 GMT", "Date": DATE}, 90.0),
        (429, {"Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT", "Date": DATE}, 0.0),
        (429, {"Retry-After": "Fri, 20 Nov 2026 10:01:30 GMT"}, None),
        (429, {"Retry-After": "soon", "Date": DATE}, None),
        (429, {"ratelimit-reset": str(EPOCH + 600), "Date": DATE}, 600.0),
        (429, {"Retry-After": "12", "ratelimit-reset": str(EPOCH + 600), "Date": DATE}, 12.0),
        (422, {"ratelimit-reset": str(EPOCH + 600), "Date": DATE}, None),
        (429, {}, None),
    ],
)
async def test_when_to_come_again(
    server: ImageServer, session: http.Session, status: int, headers: Mapping[str, str], expected: float | None
) -> None:
    said(server, {}, status, headers)
    answer = await session.call("GET", "/x")
    assert answer.retry_after_s == answer.failure().retry_after_s == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"title": "Bad", "status": 400, "detail": "no disk", "errors": ["a", "b"]}, "no disk; a; b"),
        ({"title": "Bad", "status": 400}, "Bad"),
        ({"error": "create pod: no", "status": 500}, "create pod: no"),
        ({"id": "not_found", "message": "It could not be found."}, "It could not be found."),
        ({"error": {"code": 7}}, ""),
        (["something"], ""),
        (None, ""),
        ({"message": "x" * 1_000}, "x" * 300 + "..."),
    ],
)
async def test_what_an_error_says_is_found_in_every_shape(
    server: ImageServer, session: http.Session, body: Any, words: str
) -> None:
    said(server, body, 400)
    assert (await session.call("GET", "/x")).words == words


@pytest.mark.parametrize("body", [None, [], {"pods": None}, {"pods": 7}, {"pods": ["x"]}, {"pods": [{}]}])
async def test_a_shape_that_is_not_known_is_ambiguous(server: ImageServer, session: http.Session, body: Any) -> None:
    said(server, body)
    answer = await session.call("GET", "/x")
    with pytest.raises(providers.Ambiguous, match="in a shape that is not known"), answer.understood():
        assert [pod["id"] for pod in answer.body["pods"]]


async def test_what_is_secret_is_in_no_word_log_or_repr_even_if_it_comes_back(
    server: ImageServer, session: http.Session
) -> None:
    back = f"you sent {KEY} and {SECRET} and {json.dumps(SECRET)} and short"
    said(server, {"message": back, "env": {"A": SECRET}}, 422)
    with structlog.testing.capture_logs() as events:
        answer = await session.call("POST", "/x", body={"env": {"A": SECRET}}, hide=(SECRET, "short"))
    assert answer.words == 'you sent *** and ***\n*** and "***\\n***" and short'
    told = [repr(answer), repr(answer.failure()), str(answer.failure()), repr(session), str(events)]
    assert [event["event"] for event in events] == ["provider_called"]
    assert not [text for text in told if KEY in text or "line" in text]
