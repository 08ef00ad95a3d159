"""Channels to our own services: several addresses, keepalive, TLS."""

from __future__ import annotations

import grpc

from podium_runtime import settings
from podium_runtime.grpc_server import DEFAULT_MESSAGE_BYTES


def open_channel(
    address: str,
    *,
    tls: settings.TlsFiles | None = None,
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    keepalive: tuple[float, float] = (20.0, 10.0),
) -> grpc.aio.Channel:
    """Opens a channel to `host:port` or to several of them (`h1:p1,h2:p2`: round robin over those that answer).

    `keepalive`: after so many seconds without a byte from the other side a ping is sent, and so many more without an
    answer end the connection.

    Send the token with each call (`metadata=auth.authorization(token) + tracing.outgoing()`).
    """
    options = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(keepalive[0] * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive[1] * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A loopback or cluster address must not go through a proxy that was set for downloads.
        ("grpc.enable_http_proxy", int(tls is not None)),
    )
    target = f"ipv4:{address}" if "," in address else address
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    pair = (tls.key.read_bytes(), tls.cert.read_bytes()) if tls.key and tls.cert else (None, None)
    ca = tls.ca.read_bytes() if tls.ca else None
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, *pair), options=options)
