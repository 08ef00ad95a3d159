"""Bearer tokens: who calls, on the server; who we are, on the client."""

from __future__ import annotations

import contextvars
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from podium_runtime import errors

# Open to anybody: they tell nothing about apps, and load balancers and grpcurl need them.
OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")

Verify = Callable[[str], Awaitable[str]]
"""Takes a token, returns the principal's name; raises errors.Unauthenticated or errors.Unavailable."""

_principal: contextvars.ContextVar[str] = contextvars.ContextVar("principal")


def current_principal() -> str:
    """Name of the caller of the RPC being served: an app id, or the role that its token stands for."""
    return _principal.get()


def bearer_token(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller's token. Raises errors.Unauthenticated when there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            scheme, _, token = (value if isinstance(value, str) else "").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip()
            raise errors.Unauthenticated("authorization must read 'Bearer <token>'", reason="MALFORMED_AUTHORIZATION")
    raise errors.Unauthenticated("no token: send metadata 'authorization: Bearer <token>'", reason="MISSING_TOKEN")


def shared_secret(role: str, secret: str | None) -> Verify:
    """Checks tokens against one secret that both sides were given; the principal is `role`."""

    async def verify(token: str) -> str:
        if secret is None or not hmac.compare_digest(token.encode(), secret.encode()):
            raise errors.Unauthenticated(f"this token is not a valid {role} token", reason="UNKNOWN_TOKEN")
        return role

    return verify


class Authenticator:
    """Decides for each call who makes it. `verify` is None when the service runs insecurely."""

    def __init__(self, verify_by_service: dict[str, Verify], insecure_principal: str | None = None) -> None:
        self._verify_by_service = verify_by_service
        self._insecure_principal = insecure_principal

    async def admit(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Sets the current principal. Raises errors.Unauthenticated."""
        if method.startswith(OPEN_PREFIXES):
            return
        if self._insecure_principal is not None:
            _principal.set(self._insecure_principal)
            return
        service = method.split("/")[1]
        verify = self._verify_by_service.get(service)
        if verify is None:
            raise errors.PermissionDenied(f"nobody may call {service}")
        _principal.set(await verify(bearer_token(context)))


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata that presents a token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
