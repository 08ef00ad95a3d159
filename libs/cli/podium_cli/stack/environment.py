"""The environments of the stack's services: each gets what it needs, and no other's secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from podium_cli.stack.credentials import Credentials
from podium_cli.stack.options import StackOptions

# The stack decides these; one inherited from the caller's shell must not leak into a service.
OURS = frozenset({
    "PODIUM_ADDRESS", "PODIUM_BOOTSTRAP_APP_TOKEN", "PODIUM_DATA_DIR", "PODIUM_GATEWAY_LISTEN", "PODIUM_INSECURE",
    "PODIUM_INTERNAL_TOKEN", "PODIUM_JOIN_TOKEN", "PODIUM_METRICS_LISTEN", "PODIUM_OPERATOR_ADDRESS",
    "PODIUM_OPERATOR_TOKEN", "PODIUM_POSTGRES_URL", "PODIUM_READY_FILE", "PODIUM_REDIS_URL", "PODIUM_REGISTRY",
    "PODIUM_SCHEDULER_ADDRESS", "PODIUM_SCHEDULER_LISTEN", "PODIUM_TOKEN",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Environments:
    """Builds the environments once the servers' URLs are known."""

    options: StackOptions
    credentials: Credentials
    postgres_url: str
    redis_url: str
    base: Mapping[str, str]

    def scheduler(self) -> dict[str, str]:
        """Of the scheduler, and of its migration."""
        environment = {
            **self._common(),
            "PODIUM_POSTGRES_URL": self.postgres_url,
            "PODIUM_REDIS_URL": self.redis_url,
            "PODIUM_SCHEDULER_LISTEN": self.options.scheduler_listen,
            "PODIUM_INTERNAL_TOKEN": self.credentials.internal,
            "PODIUM_JOIN_TOKEN": self.credentials.join,
            "PODIUM_OPERATOR_TOKEN": self.credentials.operator,
            "PODIUM_BOOTSTRAP_APP_TOKEN": self.credentials.app,
        }
        if self.options.registry is not None:
            environment["PODIUM_REGISTRY"] = str(self.options.registry.absolute())
        return environment

    def gateway(self, scheduler: str) -> dict[str, str]:
        """Of the gateway. scheduler: the scheduler's address."""
        return {
            **self._common(),
            "PODIUM_REDIS_URL": self.redis_url,
            "PODIUM_GATEWAY_LISTEN": self.options.gateway_listen,
            "PODIUM_SCHEDULER_ADDRESS": scheduler,
            "PODIUM_INTERNAL_TOKEN": self.credentials.internal,
        }

    def worker(self, scheduler: str) -> dict[str, str]:
        """Of a worker. Several on one machine share its cores instead of each taking all."""
        threads = max(1, _cores() // max(1, self.options.workers))
        return {
            "PODIUM_TORCH_THREADS": str(threads),
            **self._common(),
            "PODIUM_SCHEDULER_ADDRESS": scheduler,
            "PODIUM_JOIN_TOKEN": self.credentials.join,
        }

    def _common(self) -> dict[str, str]:
        inherited = {key: value for key, value in self.base.items() if key not in OURS}
        return {**inherited, "PODIUM_METRICS_LISTEN": f"{self.options.metrics_host}:0"}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
