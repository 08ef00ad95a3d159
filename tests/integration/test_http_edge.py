"""The edge where no client library shows it: bare HTTP, slow and rude callers, the end of the gateway."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme
from prometheus_client import REGISTRY

from podium_gateway.adapters.http import server
from podium_runtime import errors, settings
from tests.support import http_edge
from tests.support.http_edge import LIMITS, Edge, Lane, vector_of

WAIT_S = 20.0
GOOD = {"model": "texts", "input": "one"}
TOKEN = {"authorization": "Bearer token-of-a"}
JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in it."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


@dataclass
class Connection:
    """One TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text if isinstance(text, bytes) else text.encode())
        await self.writer.drain()

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "host: test", *(f"{k}: {v}" for k, v in headers.items())]
        if body and "content-length" not in headers and "transfer-encoding" not in headers:
            lines.append(f"content-length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.answer()

    async def answer(self) -> Answer:
        async with asyncio.timeout(WAIT_S):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(status.split()[1]), headers, body)

    async def closed(self) -> None:
        """Waits for the other side to close or to reset it."""
        async with asyncio.timeout(WAIT_S):
            try:
                assert await self.reader.read() == b""
            except ConnectionResetError:
                pass


@asynccontextmanager
async def connection(edge: Edge) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(*edge.host_and_port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def post(edge: Edge, sent: Any, headers: Mapping[str, str] = TOKEN) -> Answer:
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    async with connection(edge) as caller:
        return await caller.ask("POST", "/v1/embeddings", {**JSON, **headers}, body)


async def test_floats_are_exact_and_the_answer_has_the_shape_that_is_documented() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with http_edge.edge() as edge:
        answer = await post(edge, GOOD, {**TOKEN, "traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-request-id"] == f"req_{trace}"
    assert json.loads(answer.body) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [float(x) for x in vector_of("one")]}],
        "model": "texts",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"model": "texts", "input": "\\ud800"}', b"[" * 100_000, b"\xff\xfe", b'{"a": NaN}'],
)
async def test_what_is_no_json_object_is_an_error(body: bytes) -> None:
    async with http_edge.edge() as edge:
        answer = await post(edge, body, {**TOKEN, "content-length": str(len(body))})
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.error["code"] == "malformed_json"


async def test_another_content_type_is_refused() -> None:
    async with http_edge.edge() as edge:
        answer = await post(edge, GOOD, {**TOKEN, "content-type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "MISSING_TOKEN"), ({"authorization": "Basic eDp5"}, "MALFORMED_AUTHORIZATION"),
     ({"authorization": "Bearer nobody"}, "UNKNOWN_TOKEN")],
)  # fmt: skip
async def test_without_a_token_no_body_is_waited_for(headers: Mapping[str, str], reason: str) -> None:
    async with http_edge.edge() as edge, connection(edge) as caller:
        answer = await caller.ask("POST", "/v1/embeddings", {**JSON, **headers, "content-length": "1000"})
    assert (answer.status, answer.headers["x-podium-reason"]) == (401, reason)
    assert (answer.headers["www-authenticate"], answer.error["code"]) == ("Bearer", "invalid_api_key")


async def test_without_tokens_everybody_is_the_one_app() -> None:
    async with http_edge.edge(insecure_app="default") as edge:
        assert (await post(edge, GOOD, {})).status == 200
    assert edge.lane.calls[0][0].app_id == "default"


async def test_a_body_that_is_too_large_is_refused_before_it_is_kept() -> None:
    async with http_edge.edge(limits=replace(LIMITS, body_bytes=1000)) as edge:
        async with connection(edge) as caller:
            announced = await caller.ask("POST", "/v1/embeddings", {**JSON, **TOKEN, "content-length": "1001"})
            # What was announced is read and thrown away, and the connection goes on.
            await caller.send(b"x" * 1001)
            assert (await caller.ask("GET", "/healthz", {})).status == 503
        async with connection(edge) as caller:
            chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n"
            counted = await caller.ask(
                "POST", "/v1/embeddings", {**JSON, **TOKEN, "transfer-encoding": "chunked"}, chunk
            )
    assert (announced.status, counted.status) == (413, 413)
    assert announced.error["code"] == counted.error["code"] == "request_too_large"


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with http_edge.edge(limits=replace(LIMITS, read_s=0.1)) as edge, connection(edge) as caller:
        answer = await caller.ask("POST", "/v1/embeddings", {**JSON, **TOKEN, "content-length": "1000"}, b"{")
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


@pytest.mark.parametrize("beginning", ["", "POST /v1/emb", "GET /healthz HTTP/1.1\r\nhost: test\r\n\r\nGET /v1"])
async def test_a_header_that_does_not_come_ends_the_connection(beginning: str) -> None:
    async with http_edge.edge(patience_s=0.1) as edge, connection(edge) as caller:
        await caller.send(beginning)
        if "\r\n\r\n" in beginning:
            assert (await caller.answer()).body == b"not ready\n"
        await caller.closed()


async def test_an_answer_that_nobody_reads_is_not_kept() -> None:
    body = json.dumps({"model": "texts", "input": ["one"] * 2048, "encoding_format": "float"}).encode()
    async with http_edge.edge(Lane(dimension=1024), patience_s=0.1) as edge:
        # More than a socket of the kernel's holds.
        mean = socket.socket()
        mean.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mean.connect(edge.host_and_port)
        _, writer = await asyncio.open_connection(sock=mean, limit=1)
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n"
        writer.write("".join([head, *(f"{k}: {v}\r\n" for k, v in (JSON | TOKEN).items()), "\r\n"]).encode() + body)
        try:
            async with asyncio.timeout(WAIT_S):
                with pytest.raises(ConnectionError):
                    # Whole requests, so that no header is waited for; they are taken until there is nobody any more.
                    while True:
                        writer.write(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
                        await writer.drain()
                        await asyncio.sleep(0.02)
        finally:
            writer.transport.abort()


async def test_what_is_not_http_is_turned_away() -> None:
    async with http_edge.edge() as edge, connection(edge) as caller:
        await caller.send(b"\x16\x03\x01 hello\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert b" 400 " in await caller.reader.read()
        assert (await post(edge, GOOD)).status == 200


async def test_a_caller_that_goes_takes_its_calls_along() -> None:
    lane = Lane(gate=asyncio.Event())
    labels = {"route": "/v1/embeddings", "method": "POST", "status": "499"}
    before = REGISTRY.get_sample_value("podium_gateway_http_handled_total", labels) or 0
    async with http_edge.edge(lane) as edge:
        async with connection(edge) as caller:
            body = json.dumps({"model": "texts", "input": ["one"] * 300})
            await caller.send(
                "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\nauthorization: Bearer token-of-a\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
            )
            await asyncio.wait_for(lane.entered.wait(), WAIT_S)
        await asyncio.wait_for(lane.cancelled.wait(), WAIT_S)
        lane.gate = None
        assert (await post(edge, GOOD)).status == 200
        assert lane.at_once == 0
    assert REGISTRY.get_sample_value("podium_gateway_http_handled_total", labels) == before + 1
    assert len(lane.calls) == 4 + 1


async def test_more_requests_than_it_serves_are_told_when_to_come_again() -> None:
    lane = Lane(gate=asyncio.Event())
    async with http_edge.edge(lane, max_requests=1) as edge:
        first = asyncio.create_task(post(edge, GOOD))
        await asyncio.wait_for(lane.entered.wait(), WAIT_S)
        refused = await post(edge, GOOD)
        assert lane.gate is not None
        lane.gate.set()
        assert (await first).status == 200
    assert (refused.status, refused.headers["x-podium-reason"]) == (429, "GATEWAY_BUSY")
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("1", "1000")


async def test_bodies_take_so_much_memory_and_no_more() -> None:
    lane = Lane(gate=asyncio.Event())
    large = {"model": "texts", "input": "x" * 600}
    async with http_edge.edge(lane, limits=replace(LIMITS, bodies_bytes=1000)) as edge:
        first = asyncio.create_task(post(edge, large))
        await asyncio.wait_for(lane.entered.wait(), WAIT_S)
        refused = await post(edge, large)
        small = asyncio.create_task(post(edge, GOOD))
        assert lane.gate is not None
        lane.gate.set()
        assert (await first).status == (await small).status == 200
        assert (await post(edge, large)).status == 200
    assert (refused.status, refused.headers["x-podium-reason"]) == (429, "GATEWAY_BUSY")
    assert refused.headers["retry-after-ms"] == "1000"


async def test_late_is_late() -> None:
    lane = Lane()
    lane.refusals.append(errors.DeadlineExceeded("no worker answered in time", reason="DEADLINE_EXCEEDED"))
    async with http_edge.edge(lane, limits=replace(LIMITS, answer_s=3.0)) as edge:
        answer = await post(edge, GOOD, {**TOKEN, "x-stainless-read-timeout": "not a number"})
    assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
    assert [left is not None and 0 < left <= 3 for left in lane.remaining_s] == [True]


async def test_the_end_lets_requests_finish_then_says_so() -> None:
    lane = Lane(gate=asyncio.Event())
    async with http_edge.edge(lane) as edge, connection(edge) as idle:
        assert (await idle.ask("GET", "/healthz", {})).status == 503
        slow = asyncio.create_task(post(edge, GOOD))
        await asyncio.wait_for(lane.entered.wait(), WAIT_S)
        ending = asyncio.create_task(edge.server.stop(0.3))
        await idle.closed()
        with pytest.raises(ConnectionRefusedError):
            await post(edge, GOOD)
        answer = await slow
        await asyncio.wait_for(ending, WAIT_S)
    assert (answer.status, answer.headers["x-podium-reason"]) == (503, "SHUTTING_DOWN")
    assert lane.cancelled.is_set()


async def test_the_end_waits_for_what_is_nearly_done() -> None:
    lane = Lane(gate=asyncio.Event())
    async with http_edge.edge(lane) as edge:
        slow = asyncio.create_task(post(edge, GOOD))
        await asyncio.wait_for(lane.entered.wait(), WAIT_S)
        ending = asyncio.create_task(edge.server.stop(WAIT_S))
        assert lane.gate is not None
        lane.gate.set()
        assert (await slow).status == 200
        await asyncio.wait_for(ending, WAIT_S)


async def test_health_routes_and_methods() -> None:
    async with http_edge.edge() as edge, connection(edge) as caller:
        edge.ready.set()
        assert (await caller.ask("GET", "/healthz", {})).status == 200
        unrouted = await caller.ask("GET", "/v1/files", TOKEN)
        assert (unrouted.status, unrouted.error["code"]) == (404, "unknown_url")
        wrong = await caller.ask("GET", "/v1/embeddings", TOKEN)
        assert (wrong.status, wrong.error["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
        assert (await caller.ask("GET", "/v1/models", {})).status == 401


def test_answers_are_sent_without_delay() -> None:
    with server.bind("127.0.0.1:0") as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            # What asyncio looks at before it sets TCP_NODELAY.
            assert (accepted.type, accepted.proto) == (socket.SOCK_STREAM, socket.IPPROTO_TCP)


async def test_a_taken_address_is_told_plainly() -> None:
    async with http_edge.edge() as edge:
        second = server.Server(edge.application, edge.address, tls=None, patience_s=1.0, end_requests=edge.guard.end)
        with pytest.raises(errors.Unavailable, match="cannot listen"):
            second.start()


async def test_tls_and_client_certificates_as_on_the_grpc_side(tmp_path: Path) -> None:
    authority, cert, key, ca = trustme.CA(), tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    trusting, showing = ssl.create_default_context(cafile=ca), ssl.create_default_context(cafile=ca)
    authority.issue_cert("client.example").configure_cert(showing)

    async def embed(edge: Edge, context: ssl.SSLContext) -> list[float]:
        async with (
            openai.DefaultAsyncHttpxClient(verify=context) as http,
            openai.AsyncOpenAI(base_url=edge.base_url, api_key="token-of-a", http_client=http, max_retries=0) as client,
        ):
            return (await client.embeddings.create(model="texts", input="one")).data[0].embedding

    async with http_edge.edge(tls=settings.Tls(cert, key)) as edge:
        assert edge.base_url.startswith("https://127.0.0.1:")
        assert await embed(edge, trusting) == [float(x) for x in vector_of("one")]
    # From the environment, in place of files.
    in_place = settings.Tls(cert.read_bytes(), key.read_bytes(), ca.read_bytes())
    async with http_edge.edge(tls=in_place) as edge:
        assert await embed(edge, showing) == [float(x) for x in vector_of("one")]
        with pytest.raises(openai.APIConnectionError):
            await embed(edge, trusting)
