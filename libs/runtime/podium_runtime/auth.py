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
    return token_of(_authorization_in(context))


def token_of(authorization: str | None) -> str:
    """The token in the value of an `authorization` header. Raises errors.Unauthenticated when there is none."""
    if authorization is None:
        raise errors.Unauthenticated("no token: send 'authorization: Bearer <token>'", reason="MISSING_TOKEN")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    raise errors.Unauthenticated("authorization must read 'Bearer <token>'", reason="MALFORMED_AUTHORIZATION")


def _authorization_in(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else ""
    return None


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
        _principal.set(await self.identify(method.split("/")[1], _authorization_in(context)))

    async def identify(self, service: str, authorization: str | None) -> str:
        """The principal that calls a service with such an `authorization` header, over whatever protocol. Raises
        errors.Unauthenticated."""
        if self._insecure_principal is not None:
            return self._insecure_principal
        verify = self._verify_by_service.get(service)
        if verify is None:
            raise errors.PermissionDenied(f"nobody may call {service}")
        return await verify(token_of(authorization))


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata that presents a token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
