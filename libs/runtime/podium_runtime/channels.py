"""Channels to our own services: several addresses, failover, keepalive, TLS.

Promises: a server that is gone costs a call at most another try; one that hangs, or a connection that swallows what is
sent, ends its calls with UNAVAILABLE within NOTICED_S, and is left out until it answers again.
Every method named in `retried` is repeated then at another address: give only services all of whose methods are safe to
repeat. gRPC's own retries, https://github.com/grpc/proposal/blob/master/A6-client-retries.md; a call that the server
has begun to answer is not repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import grpc

from podium_runtime import settings
from podium_runtime.grpc_server import DEFAULT_MESSAGE_BYTES

KEEPALIVE_S = 2.0
KEEPALIVE_TIMEOUT_S = 2.0
NOTICED_S = KEEPALIVE_S + KEEPALIVE_S + KEEPALIVE_TIMEOUT_S
"""See the ping timeout below: it counts from the last ping, which is at most KEEPALIVE_S late."""
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def _service_config(retried: Sequence[str]) -> str:
    methods = [{"name": [{"service": name} for name in retried], "retryPolicy": _RETRY}] if retried else []
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": methods})


def _may_be_proxied(address: str, secure: bool) -> bool:
    """Whether gRPC may go by grpc_proxy, https_proxy or http_proxy, in this order, except to what no_grpc_proxy or else
    no_proxy names: https://github.com/grpc/grpc/blob/master/doc/environment_variables.md.

    Without TLS only by `grpc_proxy`, which nobody sets for anything else: a cluster's address must not go through a
    proxy that was set for downloads. Nor a loopback address through any, and a proxy is asked for one address, and not
    for a list of them.
    """
    if "," in address:
        return False
    return secure or (bool(os.environ.get("grpc_proxy")) and not settings.is_loopback(address))


def open_channel(
    address: str,
    *,
    tls: settings.Tls | None = None,
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    keepalive: tuple[float, float] = (KEEPALIVE_S, KEEPALIVE_TIMEOUT_S),
    retried: Sequence[str] = (),
) -> grpc.aio.Channel:
    """Opens a channel to `host:port` or to several of them (`h1:p1,h2:p2`: round robin over those that answer).

    `keepalive`: after so many seconds without a byte from the other side a ping is sent, and so many more without an
    answer end the connection. `retried`: full names of services whose calls are repeated when a server is unavailable.
    An HTTP CONNECT proxy is `grpc_proxy` of the environment, as gRPC has it.
    Send the token with each call (`metadata=auth.authorization(token) + tracing.outgoing()`).
    """
    options = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(keepalive[0] * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive[1] * 1000)),
        # gRPC has pings of its own, which measure the line. While one of them is on its way no keepalive ping is sent,
        # and it has a minute by default.
        ("grpc.http2.ping_timeout_ms", round(sum(keepalive) * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.service_config", _service_config(retried)),
        # What a call has sent is kept for its next try, up to this size: the largest message.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Not a pause between attempts but the time that one may take, by its name's meaning in gRPC's own code; what
        # is refused is tried again after the backoff all the same. A machine under load, or a handshake over an ocean,
        # takes longer than the backoff begins with.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_http_proxy", int(_may_be_proxied(address, tls is not None))),
    )
    target = f"ipv4:{address}" if "," in address else address
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    pair = (settings.read_pem(tls.key), settings.read_pem(tls.cert)) if tls.key and tls.cert else (None, None)
    ca = settings.read_pem(tls.ca) if tls.ca else None
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, *pair), options=options)
