"""The environments of the stack's services: each gets what it needs, and no other's secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podium_cli.stack.credentials import Credentials
from podium_cli.stack.options import StackOptions

# The stack decides these; one inherited from the caller's shell must not leak into a service.
OURS = frozenset({
    "PODIUM_ADDRESS", "PODIUM_BOOTSTRAP_APP_TOKEN", "PODIUM_DATA_DIR", "PODIUM_GATEWAY_HTTP_LISTEN",
    "PODIUM_GATEWAY_LISTEN", "PODIUM_INSECURE", "PODIUM_INTERNAL_TOKEN", "PODIUM_JOIN_TOKEN",
    "PODIUM_METRICS_LISTEN", "PODIUM_OPERATOR_ADDRESS", "PODIUM_OPERATOR_TOKEN", "PODIUM_POD_ID",
    "PODIUM_PODS", "PODIUM_POSTGRES_URL", "PODIUM_READY_FILE",
    "PODIUM_REDIS_URL", "PODIUM_REGISTRY", "PODIUM_SCHEDULER_ADDRESS", "PODIUM_SCHEDULER_LISTEN", "PODIUM_TOKEN",
})  # fmt: skip
_IDLE_S = 60
"""How long a pod of this machine stays when it has nothing to do, in seconds: its models take some to load again."""


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
        if self.options.pods:
            environment["PODIUM_PODS"] = str(self.write_plan())
        return environment

    def write_plan(self) -> Path:
        """The scheduler's file of where to rent pods: on this machine, as soon as there is work."""
        threads = max(1, _cores() // self.options.pods)
        plan = {
            "cluster": "up",
            "idle_s": _IDLE_S,
            "providers": {"local": {"max_count": self.options.pods, "folder": str(self.options.data_dir / "pods")}},
            "limits": {"max_pods": self.options.pods},
            "watch": {"interval_s": 1.0},
            # What costs nothing has nothing to wait for.
            "wishes": {"age_gate_s": 0, "depth_gate": 1, "target_s": 60},
            "environment": {"PODIUM_TORCH_THREADS": str(threads)},
        }
        path = self.options.data_dir / "pods.yaml"
        path.write_text(json.dumps(plan), encoding="utf-8")
        return path

    def gateway(self, scheduler: str) -> dict[str, str]:
        """Of the gateway. scheduler: the scheduler's address."""
        return {
            **self._common(),
            "PODIUM_REDIS_URL": self.redis_url,
            "PODIUM_GATEWAY_LISTEN": self.options.gateway_listen,
            "PODIUM_GATEWAY_HTTP_LISTEN": self.options.http_listen,
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
