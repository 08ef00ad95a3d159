"""The Prometheus endpoint of a process."""

from __future__ import annotations

from prometheus_client import REGISTRY, start_http_server


def serve(listen: str) -> str:
    """Serves /metrics on `host:port` (port 0 takes a free one) from a daemon thread; returns the bound address."""
    host, port = listen.rsplit(":", 1)
    server, _thread = start_http_server(int(port), addr=host.strip("[]"), registry=REGISTRY)
    return f"{host}:{server.server_port}"
