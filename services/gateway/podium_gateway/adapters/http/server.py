"""uvicorn inside our event loop: our socket, our signals, our end.

Promises: it has its address before it serves; it takes no signal handlers; it costs nothing while nobody calls. A
connection is closed when it has not brought a whole request header within `patience_s`, be it silent or slow, and when
it has taken nothing of an answer for so long. At the end idle connections are closed at once, and requests in flight
have the grace to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from podium_runtime import errors, settings

KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep an idle connection: who closes first cannot lose a request."""
HEADER_BYTES = 16 << 10
_BACKLOG = 1024
_LAST_WORDS_S = 1.0
"""From the end of the grace to the end of the server: for answers that say so."""


class Server:
    """One HTTP server. `end_requests` is called when the grace is over and some are still in flight."""

    def __init__(
        self,
        application: Starlette,
        listen: str,
        *,
        tls: settings.Tls | None,
        patience_s: float,
        end_requests: Callable[[], None],
    ) -> None:
        self._listen = listen
        self._end_requests = end_requests
        self._server = _Uvicorn(_configuration(application, tls, patience_s))
        self._secure = tls is not None and tls.cert is not None

    def start(self) -> Mapping[str, str]:
        """Binds and serves; the bound address as `http`, and as clients take it. Raises errors.Unavailable when the
        address is taken."""
        bound = bind(self._listen)
        self._task = asyncio.create_task(self._server.serve([bound]), name="http")
        address = f"{self._listen.rpartition(':')[0]}:{bound.getsockname()[1]}"
        return {"http": address, "openai_base_url": f"{'https' if self._secure else 'http'}://{address}/v1"}

    @property
    def task(self) -> asyncio.Task[None]:
        """What serves, for whoever supervises it."""
        return self._task

    async def stop(self, grace_s: float) -> None:
        """Refuses new requests at once and gives those in flight `grace_s` seconds."""
        self._server.finish()
        _, late = await asyncio.wait({self._task}, timeout=grace_s)
        if late:
            self._end_requests()
            await asyncio.wait(late, timeout=_LAST_WORDS_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def bind(listen: str) -> socket.socket:
    """A listening socket at `host:port`. Raises errors.Unavailable when the address is taken."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends without delay only on sockets that say that they are TCP's, which those of socket.create_server do
    # not; without it the second write of an answer waits for the first one's acknowledgement, 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise errors.Unavailable(f"cannot listen on {listen}", reason="ADDRESS_IN_USE") from error
    return bound


def _configuration(application: Starlette, tls: settings.Tls | None, patience_s: float) -> uvicorn.Config:
    parts = (tls.cert, tls.key, tls.ca) if tls is not None and tls.cert is not None else (None, None, None)
    with contextlib.ExitStack() as files:
        # Python takes certificates and keys from files only, and reads them here.
        cert, key, ca = (_file(pem, files) for pem in parts)
        found = _uvicorn(application, patience_s, cert, key, ca)
        found.load()
    return found


def _file(pem: settings.Pem | None, files: contextlib.ExitStack) -> Path | None:
    """Where it is until `files` is closed; nobody else can read it there."""
    if not isinstance(pem, bytes):
        return pem
    file = files.enter_context(tempfile.NamedTemporaryFile(prefix="podium-"))
    file.write(pem)
    file.flush()
    return Path(file.name)


def _uvicorn(
    application: Starlette, patience_s: float, cert: Path | None, key: Path | None, ca: Path | None
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=_protocol(patience_s),
        ws="none",
        lifespan="off",
        interface="asgi3",
        # Logs are configured already; that somebody sends what is not HTTP is not worth a line.
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=cert,
        ssl_keyfile=key,
        ssl_ca_certs=str(ca) if ca is not None else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if ca is not None else ssl.CERT_NONE,
    )


class _Uvicorn(uvicorn.Server):
    """Signals are the service's; and instead of looking ten times a second, it waits to be told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._finish = asyncio.Event()

    def finish(self) -> None:
        self.should_exit = True
        self._finish.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._finish.wait()


def _protocol(patience_s: float) -> type[H11Protocol]:
    class Impatient(H11Protocol):
        """uvicorn waits for a request's header without end, and keeps an answer for whoever does not read it."""

        _due: asyncio.TimerHandle | None = None
        _reading_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._due = self.loop.call_later(patience_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # What is no request yet is the beginning of a header, or what is left of a body that was refused.
            self._watch(begun=True)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch(begun=bool(self.conn.trailing_data[0]))

        def _watch(self, *, begun: bool) -> None:
            in_request = self.cycle is not None and not self.cycle.response_complete
            if in_request and self._due is not None:
                self._due.cancel()
                self._due = None
            elif not in_request and begun and self._due is None:
                self._due = self.loop.call_later(patience_s, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_reader(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._reading_due is not None:
                self._reading_due.cancel()

        def _await_reader(self, left: int) -> None:
            self._reading_due = self.loop.call_later(patience_s, self._look_at_reader, left)

        def _look_at_reader(self, left_before: int) -> None:
            left = self.transport.get_write_buffer_size()
            if left < left_before:
                self._await_reader(left)
            else:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            for due in (self._due, self._reading_due):
                if due is not None:
                    due.cancel()
            super().connection_lost(exc)

    return Impatient
