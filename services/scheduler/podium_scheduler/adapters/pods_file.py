"""Where pods are rented and how the autoscaler decides, from one YAML file; credentials come from settings only.

Promises: a file either becomes a Plan as a whole, or one PodsFileError whose message is one line that names the file
and the field. docs/OPERATIONS.md explains the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from podium_runtime.settings import pem_text
from podium_scheduler.domain import offers, pod_watch
from podium_scheduler.domain.autoscaling import policy

_Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")]
_Seconds = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, pydantic.Field(ge=0, lt=1, allow_inf_nan=False)]
_Budget = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
_Usd = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
_GIB = 1 << 30
_WISHES = policy.Wishes()
_POLICY = policy.Policy()
_MOST_PODS = 10_000


class PodsFileError(Exception):
    """The file cannot be used. The message is one line for people."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Offer(_Strict):
    """What an operator says that a provider without a price list can run."""

    gpu_type: str = ""
    gpu_count: int = pydantic.Field(default=1, ge=0)
    price_usd_per_hour: _Usd = 0.0
    vram_gib: float = pydantic.Field(default=0.0, ge=0)
    compute_capability: str = ""
    device_name: str = ""
    cuda_version: str = pydantic.Field(default="", pattern=r"^(\d{1,2}\.\d{1,2})?$")
    max_count: int | None = pydantic.Field(default=None, ge=0)

    def of(self, provider: str) -> offers.Offer:
        """As the autoscaler sees it."""
        return offers.Offer(
            provider, self.gpu_type, self.gpu_count, self.price_usd_per_hour, int(self.vram_gib * _GIB),
            self.compute_capability, self.device_name, max_count=self.max_count, cuda_version=self.cuda_version,
        )  # fmt: skip


class Local(_Strict):
    """Child processes of the scheduler."""

    max_count: int = pydantic.Field(default=1, ge=1)
    price_usd_per_hour: _Usd = 0.0
    folder: Path | None = None
    """Unset: `pods/` below the working directory."""


class Docker(_Strict):
    """A Docker engine."""

    offers: tuple[Offer, ...]
    endpoint: str = "unix:///var/run/docker.sock"
    gpus: tuple[str, ...] = ()
    network: str = ""
    pull: bool = False


class Kubernetes(_Strict):
    """A Kubernetes cluster."""

    offers: tuple[Offer, ...]
    namespace: str = "podium"
    kubeconfig: str = ""
    context: str = ""
    service_account: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: Mapping[str, str] = pydantic.Field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    nodes_on_demand: bool = False


class RunPod(_Strict):
    """RunPod; the key is PODIUM_RUNPOD_API_KEY."""

    api: Literal["v2", "v1"] = "v2"
    gpu_types: tuple[str, ...] = ()
    gpu_counts: tuple[int, ...] = (1,)
    min_cuda_version: str = ""
    data_center_ids: tuple[str, ...] = ()


class DigitalOcean(_Strict):
    """DigitalOcean; the token is PODIUM_DIGITALOCEAN_TOKEN."""

    sizes: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    ssh_keys: tuple[str, ...] = ()


class Providers(_Strict):
    """Those that are named are used."""

    local: Local | None = None
    docker: Docker | None = None
    kubernetes: Kubernetes | None = None
    runpod: RunPod | None = None
    digitalocean: DigitalOcean | None = None


class Tls(_Strict):
    """PEM files of the scheduler's machine, of which every pod gets the contents: none of them is on a rented one."""

    ca: Path
    """What pods trust."""
    cert: Path | None = None
    key: Path | None = None
    """What they show to a scheduler that asks for certificates."""

    @pydantic.model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        return self


class Limits(_Strict):
    """What is in force until an operator sets something else."""

    min_pods: int = pydantic.Field(default=0, ge=0)
    max_pods: int = pydantic.Field(default=20, ge=0, le=_MOST_PODS)
    usd_per_hour: _Budget | None = None
    usd_per_day: _Budget | None = None

    @pydantic.model_validator(mode="after")
    def _order(self) -> Limits:
        if self.min_pods > self.max_pods:
            raise ValueError(f"min_pods {self.min_pods} is more than max_pods {self.max_pods}")
        return self


class Wishes(_Strict):
    """For a workload, or for all that have none of their own."""

    gpu_types: tuple[str, ...] = ()
    clouds: tuple[offers.Cloud, ...] = tuple(offers.Cloud)
    warm_pods: int = pydantic.Field(default=0, ge=0)
    target_s: _Seconds = _WISHES.target_s
    age_gate_s: _Seconds = _WISHES.age_gate_s
    depth_gate: int | None = pydantic.Field(default=None, ge=1)

    def of(self) -> policy.Wishes:
        """As the autoscaler sees it."""
        return policy.Wishes(
            self.gpu_types, frozenset(self.clouds), self.warm_pods, self.target_s, self.age_gate_s, self.depth_gate
        )


class Watch(_Strict):
    """How the pods of a provider are watched, in seconds."""

    interval_s: float = pydantic.Field(default=5.0, gt=0)
    orphans: pod_watch.OrphanPolicy = pod_watch.OrphanPolicy.DESTROY
    boot_s: _Seconds = 900.0
    canary_s: _Seconds = 600.0
    worker_s: _Seconds = 120.0
    drain_s: _Seconds = 900.0

    @property
    def patience(self) -> pod_watch.Patience:
        """As the keeper sees it."""
        return pod_watch.Patience(
            boot=timedelta(seconds=self.boot_s),
            canary=timedelta(seconds=self.canary_s),
            worker=timedelta(seconds=self.worker_s),
            drain=timedelta(seconds=self.drain_s),
        )


class Plan(_Strict):
    """The whole file."""

    cluster: _Name = "podium"
    """What the names of pods begin with; no two Podiums with one account may have the same, or be its beginning."""
    image: str = ""
    """Of the worker; `local` needs none."""
    command: tuple[str, ...] = ()
    scheduler_address: str = ""
    """How pods reach the scheduler; empty: where it listens."""
    tls: Tls | None = None
    """Unset: pods have what their image or `environment` gives them, and without that no TLS."""
    environment: Mapping[str, str] = pydantic.Field(default_factory=dict)
    """What every pod has beside what it needs to join: proxies, PODIUM_ settings of the worker."""
    disk_gb: int = pydantic.Field(default=40, ge=1)
    idle_s: _Seconds = _POLICY.idle_s
    drain_grace_s: _Seconds = _POLICY.drain_grace_s
    termination_lag_s: _Seconds = _POLICY.termination_lag_s
    """The dollars of a day hold as long as no pod takes longer to be gone."""
    alert_age_s: float = pydantic.Field(default=_POLICY.alert_age_s, gt=0, allow_inf_nan=False)
    max_spawns: int = pydantic.Field(default=_POLICY.max_spawns, ge=1)
    spare_share: _Share = _POLICY.spare_share
    spare_cold_starts: _Seconds = _POLICY.spare_cold_starts
    spare_most: _Share = _POLICY.spare_most
    providers: Providers
    limits: Limits = Limits()
    watch: Watch = Watch()
    wishes: Wishes = Wishes()
    workloads: Mapping[str, Wishes] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _image(self) -> Plan:
        rented = [name for name in Providers.model_fields if name != "local" and getattr(self.providers, name)]
        if rented and not self.image:
            raise ValueError(f"image: {rented[0]} needs the worker's image")
        if rented and not self.scheduler_address:
            raise ValueError(f"scheduler_address: {rented[0]} needs to know how its pods reach the scheduler")
        return self

    @pydantic.model_validator(mode="after")
    def _environment(self) -> Plan:
        twice = [name for name in self.environment if self.tls is not None and name.startswith("PODIUM_TLS_")]
        if twice:
            raise ValueError(f"environment: {twice[0]} is what tls is there for; leave one of them out")
        return self

    @pydantic.model_validator(mode="after")
    def _times(self) -> Plan:
        if self.spare_share > self.spare_most:
            raise ValueError(f"spare_share {self.spare_share:g} is more than spare_most {self.spare_most:g}")
        # Two lists have to agree that a pod is gone.
        if self.termination_lag_s < (least := 2 * self.watch.interval_s):
            raise ValueError(f"termination_lag_s {self.termination_lag_s:g} is less than two lists take, {least:g}")
        return self

    @property
    def policy(self) -> policy.Policy:
        """How the autoscaler decides, before an operator sets limits."""
        limits = self.limits
        return policy.Policy(
            limits=policy.Limits(False, limits.min_pods, limits.max_pods, limits.usd_per_hour, limits.usd_per_day),
            wishes=self.wishes.of(),
            wishes_of={name: wishes.of() for name, wishes in self.workloads.items()},
            idle_s=self.idle_s,
            drain_grace_s=self.drain_grace_s,
            termination_lag_s=self.termination_lag_s,
            max_spawns=self.max_spawns,
            spare_share=self.spare_share,
            spare_cold_starts=self.spare_cold_starts,
            spare_most=self.spare_most,
            alert_age_s=self.alert_age_s,
        )


def tls_environment(path: Path, plan: Plan) -> dict[str, str]:
    """The settings by which pods have the contents of a plan's PEM files. `path`: of the plan. Raises PodsFileError."""
    if plan.tls is None:
        return {}
    files = {"ca": plan.tls.ca, "cert": plan.tls.cert, "key": plan.tls.key}
    found = {}
    for part, file in files.items():
        if file is not None:
            try:
                found[f"PODIUM_TLS_{part.upper()}_PEM"] = pem_text(file.read_text(encoding="utf-8"))
            except OSError as error:
                raise PodsFileError(f"{path}: tls.{part}: {file}: cannot be read: {error.strerror or error}") from error
            except ValueError:
                # Not from it: it may have a piece of a key.
                raise PodsFileError(f"{path}: tls.{part}: {file}: is no PEM") from None
    return found


def load(path: Path) -> Plan:
    """Reads a file. Raises PodsFileError."""
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PodsFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PodsFileError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Plan.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PodsFileError(f"{path}: {where}: {first['msg']}") from error
