"""The OpenAI-compatible edge in a test's event loop: real HTTP on loopback, before an interactive lane in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from starlette.applications import Starlette

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.adapters.http import guard, routes, server
from podium_gateway.app import callers, embed_texts, ports, workloads
from podium_runtime import auth, clock, errors, settings

SERVICE = "podium.gateway.v1.GatewayService"
TOKENS = {"token-of-a": "app-a", "token-of-b": "app-b"}
DIMENSION = 8
MAX_TEXT_BYTES = 100_000
MAX_TOKEN_IDS = 9_000
VOCABULARY = 30_000
"""Token ids of the workload `tokens` are below it."""
LIMITS = routes.Limits(body_bytes=4 << 20, bodies_bytes=64 << 20, read_s=10.0, answer_s=10.0)
PATIENCE_S = 10.0
_TURNS = 8
"""Of the event loop: more than lie between two waits of a request."""

WORKLOADS = (
    workload_pb2.Workload(
        name="texts",
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=DIMENSION,
        truncated_dimensions=[2, 4],
        limits=workload_pb2.WorkloadLimits(max_text_bytes=MAX_TEXT_BYTES),
        prefixes=workload_pb2.TextPrefixes(query="query: ", passage="passage: "),
    ),
    workload_pb2.Workload(
        name="tokens",
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=DIMENSION,
        limits=workload_pb2.WorkloadLimits(max_text_bytes=MAX_TOKEN_IDS),
        accepts_token_ids=True,
    ),
    workload_pb2.Workload(name="pictures", modalities=[workload_pb2.MODALITY_IMAGE], dimension=DIMENSION),
)


def vector_of(text: str, dimension: int = DIMENSION) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the lane below makes of a text: shape (dimension,), float32, no element exact in a few digits."""
    octets = np.frombuffer(hashlib.shake_128(text.encode()).digest(dimension), dtype=np.uint8)
    return cast("np.ndarray[Any, np.dtype[np.float32]]", (octets / 255.0).astype("<f4"))


@dataclass
class Lane:
    """Embed, and the registry. `refusals` are raised by the next calls, one each."""

    refusals: deque[Exception] = field(default_factory=deque)
    gate: asyncio.Event | None = None
    """When set, calls wait for it."""
    bad_texts: frozenset[str] = frozenset()
    """These have no vector."""
    room: int | None = None
    """Calls at a time; more are refused."""
    calls: list[tuple[callers.Caller, gateway_pb2.EmbedRequest]] = field(default_factory=list)
    remaining_s: list[float | None] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    dimension: int = DIMENSION
    at_once: int = 0
    most_at_once: int = 0
    listed: tuple[workload_pb2.Workload, ...] = WORKLOADS

    async def list_workloads(self) -> tuple[workload_pb2.Workload, ...]:
        return self.listed

    async def __call__(self, caller: callers.Caller, request: gateway_pb2.EmbedRequest) -> gateway_pb2.EmbedResponse:
        self.calls.append((caller, request))
        self.remaining_s.append(caller.remaining_s())
        if self.refusals:
            raise self.refusals.popleft()
        if self.room is not None and self.at_once >= self.room:
            raise errors.ResourceExhausted("no room", reason="APP_EMBED_LIMIT", retry_after_s=0.02)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        try:
            # Others get a turn, as with a real call.
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.at_once -= 1
        return self._answer(request)

    def _answer(self, request: gateway_pb2.EmbedRequest) -> gateway_pb2.EmbedResponse:
        dimension = request.options.dimensions or self.dimension
        texts = texts_of(request)
        unknown = [index for index, ids in enumerate(ids_of(request)) if max(ids, default=0) >= VOCABULARY]
        good = [text for index, text in enumerate(texts) if text not in self.bad_texts and index not in unknown]
        chunk = result_pb2.ResultChunk(
            item_count=len(texts),
            vectors=b"".join(vector_of(text, dimension).tobytes() for text in good),
            count=len(good),
            dimension=dimension,
            dtype=workload_pb2.DTYPE_FLOAT32,
            errors=[
                result_pb2.ItemError(
                    item_index=index,
                    reason=result_pb2.ITEM_ERROR_REASON_EMPTY_INPUT,
                    message="the text holds nothing that the model can read",
                )
                for index, text in enumerate(texts)
                if text in self.bad_texts
            ]
            + [
                result_pb2.ItemError(
                    item_index=index,
                    reason=result_pb2.ITEM_ERROR_REASON_UNKNOWN_TOKEN,
                    message="a token id is not in the vocabulary.",
                )
                for index in unknown
            ],
        )
        return gateway_pb2.EmbedResponse(chunk=chunk, token_count=sum(len(text.split()) + 2 for text in texts))


async def is_done(task: asyncio.Task[Any]) -> bool:
    """Whether it is, once it has come as far as it can without time."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    return task.done()


def texts_of(request: gateway_pb2.EmbedRequest) -> list[str]:
    """The texts of one call; of token ids their digits, which the lane takes for a text of so many words."""
    return [item.text or " ".join(map(str, item.token_ids.ids)) for item in request.texts.items]


def ids_of(request: gateway_pb2.EmbedRequest) -> list[list[int]]:
    """The token ids of one call, none for a text."""
    return [list(item.token_ids.ids) for item in request.texts.items]


def options_of(request: gateway_pb2.EmbedRequest) -> item_pb2.EmbeddingOptions:
    """Its options."""
    return request.options


async def _verify(token: str) -> str:
    if token not in TOKENS:
        raise errors.Unauthenticated("this token is not known, or was revoked", reason="UNKNOWN_TOKEN")
    return TOKENS[token]


@dataclass
class Edge:
    """A running edge."""

    lane: Lane
    application: Starlette
    server: server.Server
    guard: guard.Guard
    address: str
    base_url: str
    """What OPENAI_BASE_URL is set to."""
    ready: asyncio.Event

    @property
    def host_and_port(self) -> tuple[str, int]:
        """For a bare connection."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)


@asynccontextmanager
async def edge(
    lane: Lane | None = None,
    *,
    limits: routes.Limits = LIMITS,
    patience_s: float = PATIENCE_S,
    max_requests: int = 100,
    insecure_app: str | None = None,
    tls: settings.Tls | None = None,
) -> AsyncIterator[Edge]:
    """Serves on a free port until the end of the block."""
    lane = lane or Lane()
    time = clock.SystemClock()
    registry = workloads.Registry(cast(ports.Ledger, lane), time)
    guarded = guard.Guard(
        auth.Authenticator({SERVICE: _verify}, insecure_principal=insecure_app), SERVICE, max_requests
    )
    ready = asyncio.Event()
    application = routes.Routes(
        embed_texts.EmbedTexts(lane, registry, time), registry, time, guarded, limits, ready.is_set
    ).application()
    http = server.Server(application, "127.0.0.1:0", tls=tls, patience_s=patience_s, end_requests=guarded.end)
    bound: Mapping[str, str] = http.start()
    try:
        yield Edge(lane, application, http, guarded, bound["http"], bound["openai_base_url"], ready)
    finally:
        await http.stop(0)
