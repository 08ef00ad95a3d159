"""Embed: check, then one worker that has the model loaded, and nothing in between that is kept.

Promises: an answer, or an error that says when to try again, by the call's deadline; a call that is cancelled is
cancelled on all its way. The event loop's clock is the only one. What a replica of the scheduler does not have, the
others are asked for: see embed_routes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from podium.gateway.v1 import gateway_pb2
from podium.scheduler.v1 import scheduler_pb2
from podium_gateway.app import callers, embed_answers, embed_requests, embed_routes, in_hand, ports, workloads
from podium_gateway.domain import vector_cache
from podium_runtime import errors

# A call takes milliseconds: whoever is over the limit may try again soon.
_RETRY_AFTER_S = 0.1
_NO_WORKLOAD = "(unknown)"


class Embed:
    """Answers interactive calls."""

    def __init__(
        self,
        routes: embed_routes.Routes,
        registry: workloads.Registry,
        meter: ports.EmbedMeter,
        cache: vector_cache.VectorCache,
        *,
        calls_per_app: int,
        most_bytes: int,
        default_s: float,
    ) -> None:
        """`most_bytes`: of all calls in flight. `default_s`: time of a call that has no deadline, in seconds."""
        self._routes = routes
        self._registry = registry
        self._meter = meter
        self._cache = cache
        self._calls_per_app = calls_per_app
        self._in_hand = in_hand.InHand(most_bytes, retry_after_s=_RETRY_AFTER_S)
        self._default_s = default_s
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, caller: callers.Caller, request: gateway_pb2.EmbedRequest) -> gateway_pb2.EmbedResponse:
        """Raises errors.InvalidArgument, ResourceExhausted, Unavailable, DeadlineExceeded."""
        started = time.monotonic()
        rules = await self._registry.find(request.workload) if request.workload else None
        outcome = "INTERNAL"
        self._meter.embed_began()
        try:
            items, nbytes = embed_requests.check(request, rules)
            with self._in_hand.share() as share:
                share.grow(nbytes)
                answer = await self._admitted(caller, request, items)
            outcome = "OK"
            return answer
        except errors.PodiumError as error:
            outcome = error.reason
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            # A name that nobody has checked is no label.
            name = request.workload if rules is not None else _NO_WORKLOAD
            self._meter.embed_ended(name, outcome, time.monotonic() - started)

    async def _admitted(
        self, caller: callers.Caller, request: gateway_pb2.EmbedRequest, items: embed_requests.Items
    ) -> gateway_pb2.EmbedResponse:
        app_id = caller.app_id
        if self._in_flight[app_id] >= self._calls_per_app:
            raise errors.ResourceExhausted(
                f"the app has {self._calls_per_app} interactive calls in flight here, as many as it may",
                reason="APP_EMBED_LIMIT",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._in_flight[app_id] += 1
        try:
            if not self._cache.on:
                answer = await self._ask(caller, embed_requests.ask(app_id, request))
                return embed_answers.whole(answer, items)
            return await self._with_cache(caller, request, items)
        finally:
            self._in_flight[app_id] -= 1
            if not self._in_flight[app_id]:
                del self._in_flight[app_id]

    async def _with_cache(
        self, caller: callers.Caller, request: gateway_pb2.EmbedRequest, items: embed_requests.Items
    ) -> gateway_pb2.EmbedResponse:
        names = self._names(caller.app_id, request, items)
        # Now, as the names: the registry may be another one when the answer comes.
        model = self._registry.model(request.workload)
        found = [self._cache.find(name) if name else None for name in names]
        makes = {entry.provenance for entry in found if entry is not None}
        if len(makes) > 1:
            found, makes = [None] * len(items), set()
        missing = [index for index, entry in enumerate(found) if entry is None]
        self._meter.embed_cached(len(items) - len(missing), len(missing))
        if not missing:
            return embed_answers.merged(found, None, missing, items)
        fresh = await self._computed(caller, request, missing, names, model)
        if makes and embed_answers.make(fresh) not in makes:
            # One answer is of one make.
            missing = list(range(len(items)))
            fresh = await self._computed(caller, request, missing, names, model)
        if len(missing) == len(items):
            return embed_answers.whole(fresh, items)
        return embed_answers.merged(found, fresh, missing, items)

    async def _computed(
        self,
        caller: callers.Caller,
        request: gateway_pb2.EmbedRequest,
        indices: Sequence[int],
        names: Sequence[bytes | None],
        model: tuple[str, str],
    ) -> scheduler_pb2.EmbedResponse:
        """The items at these indices. Kept if `model` has made them: a replica of the scheduler may know another."""
        fresh = await self._ask(caller, embed_requests.ask(caller.app_id, request, indices))
        if embed_answers.model(fresh) == model:
            for index, entry in zip(indices, embed_answers.entries(fresh), strict=True):
                name = names[index]
                if entry is not None and name is not None:
                    self._cache.keep(name, entry)
        return fresh

    def _names(
        self, app_id: str, request: gateway_pb2.EmbedRequest, items: embed_requests.Items
    ) -> Sequence[bytes | None]:
        """None of an image that is somewhere else: what is there may change."""
        fingerprint = self._registry.fingerprint(request.workload)
        options = request.options.SerializeToString(deterministic=True)
        contents = [embed_requests.content(item) for item in items]
        return [None if c is None else vector_cache.key(app_id, fingerprint, options, c) for c in contents]

    async def _ask(self, caller: callers.Caller, asked: scheduler_pb2.EmbedRequest) -> scheduler_pb2.EmbedResponse:
        remaining_s = caller.remaining_s()
        timeout_s = self._default_s if remaining_s is None else remaining_s
        try:
            return await self._routes.embed(asked, timeout_s)
        except errors.DeadlineExceeded as error:
            if remaining_s is not None:
                raise
            message = f"no answer within {timeout_s:g} s, which a call without a deadline has"
            raise errors.DeadlineExceeded(message, reason=error.reason) from error
