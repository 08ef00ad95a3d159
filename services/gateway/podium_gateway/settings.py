"""The gateway's settings, from the environment: PODIUM_GATEWAY_LISTEN and so on."""

from __future__ import annotations

from typing import Self

import pydantic

from podium_runtime import settings


class GatewaySettings(settings.ServiceSettings):
    """One frozen object, built in `main`."""

    gateway_listen: str = "127.0.0.1:0"
    """Where clients connect; port 0 takes a free one."""
    gateway_http_listen: str | None = pydantic.Field(default=None, pattern=r"^.+:\d+$")
    """`host:port` of the OpenAI-compatible HTTP edge; port 0 takes a free one, unset: there is none."""
    gateway_http_max_body_bytes: int = pydantic.Field(default=8 << 20, ge=1 << 10, le=16 << 20)
    """Largest body of an HTTP request. JSON is read on the event loop, 8 MiB in about 50 ms."""
    gateway_http_read_timeout_s: float = pydantic.Field(default=30.0, gt=0)
    """How long the header of an HTTP request, and then its body, may take to come, in seconds; and how long a client
    may read nothing of its answer."""
    gateway_http_timeout_s: float = pydantic.Field(default=60.0, gt=0)
    """How long an answer over HTTP may take, in seconds; less when the client says that it waits less."""
    gateway_http_requests: int = pydantic.Field(default=256, ge=1)
    """HTTP requests in flight; more are refused."""
    gateway_http_bytes: int = pydantic.Field(default=128 << 20, ge=1 << 20)
    """Bodies of HTTP requests in flight, together, in bytes; more are refused."""
    scheduler_address: str
    """`host:port` of a scheduler, or several with commas between them."""
    internal_token: str | None = None
    """Shared with the scheduler; presented with every call to it."""
    redis_url: str
    """Where the results are, for example redis://127.0.0.1:6379/0 or unix:///run/redis.sock."""
    redis_prefix: str = "podium"
    """First part of every key and channel."""
    redis_timeout_s: float = pydantic.Field(default=10.0, gt=0)
    """How long one Redis command may take, in seconds."""
    redis_connections: int = pydantic.Field(default=32, ge=2)
    """Connections to Redis at most; one of them carries the wake-ups."""
    gateway_max_message_bytes: int = pydantic.Field(default=64 << 20, ge=1 << 20)
    """Largest request or response."""
    gateway_submit_bytes: int = pydantic.Field(default=256 << 20, ge=1 << 20)
    """SubmitBatch requests in hand, of all apps together, in bytes; more are refused."""
    gateway_auth_ttl_s: float = pydantic.Field(default=60.0, gt=0)
    """Upper bound on how long a token is trusted without asking the scheduler, in seconds."""
    gateway_auth_negative_ttl_s: float = pydantic.Field(default=3.0, gt=0)
    """How long an unknown token is refused without asking the scheduler, in seconds."""
    gateway_auth_capacity: int = pydantic.Field(default=10_000, ge=1)
    """Tokens remembered."""
    gateway_embed_calls: int = pydantic.Field(default=64, ge=1)
    """Interactive calls of one app in flight at this gateway; more are refused."""
    gateway_embed_bytes: int = pydantic.Field(default=128 << 20, ge=1 << 20)
    """Interactive calls in flight, of all apps together, in bytes; more are refused."""
    gateway_embed_default_s: float = pydantic.Field(default=10.0, gt=0)
    """Time of an interactive call that has no deadline, in seconds."""
    gateway_embed_cache_bytes: int = pydantic.Field(default=0, ge=0)
    """Memory for recent vectors of interactive calls, each for its own app alone; 0: none are kept."""

    @property
    def scheduler_addresses(self) -> tuple[str, ...]:
        """Of each replica."""
        return tuple(part.strip() for part in self.scheduler_address.split(",") if part.strip())

    @pydantic.model_validator(mode="after")
    def _token(self) -> Self:
        if not self.insecure and not self.internal_token:
            raise ValueError("set PODIUM_INTERNAL_TOKEN, or PODIUM_INSECURE=1 to serve loopback without tokens")
        return self
