"""The routes: `POST /v1/embeddings`, `GET /v1/models`, `GET /v1/models/{model}`; `GET /healthz` for load balancers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from podium_gateway.adapters import metering
from podium_gateway.adapters.http import answers, guard, refusals, requests
from podium_gateway.app import callers, embed_texts, in_hand, workloads
from podium_runtime import clock, errors

_CLIENT_TIMEOUT = "x-stainless-read-timeout"
"""How long an official client waits for an answer, in seconds: a header of all those that are generated."""
_BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`body_bytes`: of a request. `bodies_bytes`: of all in flight. `read_s`: from a header to the end of its body.
    `answer_s`: from there on, at most; a client that says that it waits less has less."""

    body_bytes: int
    bodies_bytes: int
    read_s: float
    answer_s: float


class Routes:
    """Serves OpenAI's calls with our use cases."""

    def __init__(
        self,
        embed: embed_texts.EmbedTexts,
        registry: workloads.Registry,
        time: clock.Clock,
        guarded: guard.Guard,
        limits: Limits,
        is_ready: Callable[[], bool],
    ) -> None:
        self._embed = embed
        self._registry = registry
        self._clock = time
        self._guard = guarded
        self._limits = limits
        self._in_hand = in_hand.InHand(limits.bodies_bytes, retry_after_s=_BUSY_RETRY_S)
        self._is_ready = is_ready

    def application(self) -> Starlette:
        """The ASGI application."""
        guarded = self._guard.guarded
        models, model, embeddings = "/v1/models", "/v1/models/{model}", "/v1/embeddings"
        return Starlette(
            routes=[
                Route(embeddings, guarded(embeddings, self._embeddings), methods=["POST"]),
                Route(models, guarded(models, self._models), methods=["GET"]),
                Route(model, guarded(model, self._model), methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _unrouted},
        )

    async def _embeddings(self, request: Request, app_id: str) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise refusals.Refusal(415, "content-type must be application/json", code="unsupported_media_type")
        with self._in_hand.share() as share:
            asked = requests.parse(await self._body(request, share))
            caller = callers.Caller(app_id, self._time_left(request))
            return await self._guard.unless_gone(request, self._answer(caller, asked))

    async def _answer(self, caller: callers.Caller, asked: requests.EmbeddingsRequest) -> Response:
        try:
            vectors = await self._embed(caller, asked.model, asked.inputs, asked.options)
        except errors.InvalidArgument as error:
            raise refusals.renamed(error, single=asked.single) from error
        return await answers.embeddings(vectors, asked.model, as_base64=asked.base64)

    async def _body(self, request: Request, share: in_hand.Share) -> bytes:
        too_large = refusals.Refusal(
            413, f"the body has more than {self._limits.body_bytes:,} bytes; send several", code="request_too_large"
        )
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._limits.body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.read_s):
                async for part in request.stream():
                    if len(body) + len(part) > self._limits.body_bytes:
                        raise too_large
                    share.grow(len(part))
                    body += part
        except TimeoutError:
            message = f"the body did not come within {self._limits.read_s:g} s"
            raise refusals.Refusal(408, message, code="request_timeout") from None
        return bytes(body)

    def _time_left(self, request: Request) -> Callable[[], float]:
        deadline = self._clock.monotonic() + min(self._limits.answer_s, _waits(request))
        return lambda: deadline - self._clock.monotonic()

    async def _models(self, request: Request, app_id: str) -> Response:
        return answers.models((await self._registry.all()).values())

    async def _model(self, request: Request, app_id: str) -> Response:
        name = request.path_params["model"]
        known = (await self._registry.all()).get(name)
        if known is None or not answers.takes_texts(known):
            raise errors.NotFound(f"there is no text workload {name[:100]!r}", reason="WORKLOAD_NOT_FOUND")
        return answers.model(known)

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ready\n") if self._is_ready() else PlainTextResponse("not ready\n", 503)


def _waits(request: Request) -> float:
    """Seconds that the client says it waits; infinity when it does not say so."""
    try:
        seconds = float(request.headers.get(_CLIENT_TIMEOUT, "inf"))
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


async def _unrouted(request: Request, error: Exception) -> Response:
    """There is no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    metering.http_handled("other", request.method, error.status_code, 0.0)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    return refusals.Refusal(error.status_code, message, code=code, headers=dict(error.headers or {})).response()
