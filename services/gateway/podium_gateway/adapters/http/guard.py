"""What every route has around it: trace, limit, token, errors, metrics.

Promises: whoever calls gets an answer in the shape its client knows, whatever happens; no traceback, which is logged
here under the request's trace. A caller that is gone ends its work at once. No body is read before the token is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from podium_gateway.adapters import metering
from podium_gateway.adapters.http import refusals
from podium_runtime import auth, errors, logs, tracing

log = logs.get_logger(__name__)
AnswerT = TypeVar("AnswerT")
Handler = Callable[[Request, str], Awaitable[Response]]
"""Takes a request and the app that makes it."""

_BUSY_RETRY_S = 1.0


class Guard:
    """Wraps handlers. `service`: whose tokens are asked for. `max_requests`: in flight at a time."""

    def __init__(self, authenticator: auth.Authenticator, service: str, max_requests: int) -> None:
        self._authenticator = authenticator
        self._service = service
        self._max_requests = max_requests
        self._in_flight = 0
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Answers what is still in flight with UNAVAILABLE: it can be asked again, of another gateway."""
        self._ending.set()

    def guarded(self, route: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A Starlette endpoint. `route` names it in metrics."""

        async def endpoint(request: Request) -> Response:
            started = time.monotonic()
            tracing.adopt((key, value) for key, value in request.headers.items())
            response = await self._respond(request, handler)
            response.headers["x-request-id"] = f"req_{tracing.trace_id()}"
            metering.http_handled(route, request.method, response.status_code, time.monotonic() - started)
            return response

        return endpoint

    async def _respond(self, request: Request, handler: Handler) -> Response:
        try:
            return await self._admitted(request, handler)
        except refusals.Refusal as refusal:
            return refusal.response()
        except errors.PodiumError as error:
            return refusals.of(error).response()
        except ClientDisconnect:
            return Response(status_code=refusals.CALLER_GONE)
        except Exception:
            log.exception("http_crashed", path=request.url.path)
            return refusals.of(errors.Internal("internal error; the server's log has it under this id")).response()

    async def _admitted(self, request: Request, handler: Handler) -> Response:
        if self._in_flight >= self._max_requests:
            raise errors.ResourceExhausted(
                f"this gateway serves {self._max_requests} requests already",
                retry_after_s=_BUSY_RETRY_S,
                reason="GATEWAY_BUSY",
            )
        self._in_flight += 1
        try:
            with metering.http_in_flight().track_inprogress():
                app_id = await self._authenticator.identify(self._service, request.headers.get("authorization"))
                return await handler(request, app_id)
        finally:
            self._in_flight -= 1

    async def unless_gone(self, request: Request, work: Coroutine[Any, Any, AnswerT]) -> AnswerT:
        """Awaits `work`, whose request is read; ends it when the caller has gone or this gateway ends.

        Raises starlette.requests.ClientDisconnect, errors.Unavailable (SHUTTING_DOWN), and what `work` raises.
        """
        task = asyncio.create_task(work)
        gone, ending = asyncio.create_task(_disconnected(request)), asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({task, gone, ending}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise errors.Unavailable("this gateway is shutting down", reason="SHUTTING_DOWN")
        finally:
            for each in (task, gone, ending):
                each.cancel()
            await asyncio.gather(task, gone, ending, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
