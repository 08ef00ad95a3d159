"""Pods as pods of a Kubernetes cluster: bare ones, never restarted, with GPUs as a limit.

A pod's name is unique in its namespace, and so is the key that makes a create call safe: a name that is taken is
resolved by reading it. A create call is two: the pod, and a Secret with its environment (the join token is in it),
which the pod owns, so that the cluster removes it with the pod, whatever becomes of us. Until it exists the pod waits;
one that waits for ever, because we were killed in between, boots too late and is destroyed for that.
A cluster has no price list: the operator writes the offers, whose GPU types are values of the nodes' label
nvidia.com/gpu.product. No capacity is no error here but a pod that stays PENDING, unless a quota says it.
Needs, in its namespace: create, get, list and delete of pods, create of secrets.
Clock: the loop's, for the bound of each call. Made inside the event loop that it is used in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import pydantic
from kubernetes_asyncio import client, config

from podium_scheduler.adapters.providers import answers, http, kubernetes_phases, prefixes
from podium_scheduler.app import providers
from podium_scheduler.app.providers import Listed, Offer, Order

GPU = "nvidia.com/gpu"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MAX_PAGES = 10_000
_Pod = Mapping[str, Any]
"""As the API shows it."""
_MANAGED_BY = {"app.kubernetes.io/managed-by": "podium"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a cluster is used. Without `api_url` and `kubeconfig` it is the one that the scheduler itself runs in."""

    prefix: str
    """What names of this Podium's pods begin with; without the last hyphen, the value of their label."""
    offers: Sequence[Offer]
    """What the operator says that the cluster can run, with prices."""
    namespace: str = "podium"
    kubeconfig: str = ""
    """Path of a file."""
    context: str = ""
    """Of the file; empty: its current one."""
    api_url: str = ""
    token: pydantic.SecretStr | None = None
    """For `api_url`."""
    ca_file: str = ""
    """For `api_url`; empty: the system's authorities."""
    service_account: str = ""
    """Empty: the namespace's default. Its token is not mounted."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: Sequence[str] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Beside the GPU's product."""
    tolerations: Sequence[str] = ()
    """Keys of taints, beside nvidia.com/gpu."""
    nodes_on_demand: bool = False
    """Whether an autoscaler makes nodes for pods that wait. If not, a pod that fits none is an error at once."""
    grace_s: int = 30
    """Between SIGTERM and SIGKILL, in seconds."""
    page_size: int = 500
    patience: http.Patience = field(default_factory=http.Patience)

    def __post_init__(self) -> None:
        prefixes.check(self.prefix)

    @property
    def labels(self) -> Mapping[str, str]:
        """What the pods of this Podium are found by."""
        return {**_MANAGED_BY, "podium/cluster": self.prefix.strip("-")}


class Kubernetes:
    """Bare pods."""

    name = "kubernetes"
    list_lag_s = 10.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api: client.ApiClient | None = None
        self._opening = asyncio.Lock()
        timeout = aiohttp.ClientTimeout(total=settings.patience.total_s, connect=settings.patience.connect_s)
        # Not preloaded: the client would log whatever it reads, environments too, and throw bodies of errors away.
        self._how: dict[str, Any] = {"_preload_content": False, "_request_timeout": timeout}

    async def offers(self) -> Sequence[Offer]:
        """The operator's, if the cluster answers at all."""
        answer = await self._call("GET /version", lambda api: client.VersionApi(api).get_code(**self._how))
        if not answer.is_good:
            raise answer.failure()
        with answer.understood():
            _ = answer.body["gitVersion"]
        return tuple(self._settings.offers)

    async def create(self, order: Order) -> Listed:
        """Makes the pod, and then its environment. A name that we have already is only given its environment."""
        try:
            pod = await self._made(order)
        except providers.Ambiguous:
            # If it was made it shall come up: nobody will make it a second time.
            with contextlib.suppress(providers.ProviderError):
                await self._give_environment(order, await self._read(order))
            raise
        await self._give_environment(order, pod)
        return self._listed(pod)

    async def list(self) -> Sequence[Listed]:
        """By label, page by page. Pages that grow too old are begun anew."""
        pods: dict[str, Listed] = {}
        token = ""
        for _ in range(_MAX_PAGES):
            answer = await self._page(token)
            if answer.status == 410 and token:
                pods, token = {}, ""
                continue
            if not answer.is_good:
                raise answer.failure()
            with answer.understood():
                found = [self._listed(pod) for pod in answer.body["items"]]
                pods |= {pod.provider_pod_id: pod for pod in found if pod.name.startswith(self._settings.prefix)}
                token = answer.body["metadata"].get("continue") or ""
            if not token:
                return tuple(pods.values())
        raise providers.Ambiguous("the pages of Kubernetes' list have no end")

    async def destroy(self, provider_pod_id: str) -> None:
        """Its processes have the grace to end, and it is listed until they have."""
        if not _NAME.fullmatch(provider_pod_id):
            # No pod has such a name, and as a path it could mean anything.
            return
        answer = await self._delete(provider_pod_id)
        if not answer.is_good and answer.status != 404:
            raise answer.failure()

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    # --- calls --------------------------------------------------------------------------------------------

    async def _made(self, order: Order) -> _Pod:
        body, namespace = pod_body(order, self._settings), self._settings.namespace
        answer = await self._call(
            "POST pods",
            lambda api: client.CoreV1Api(api).create_namespaced_pod(
                namespace, body, field_validation="Strict", **self._how
            ),
            hide=order.environment.values(),
        )
        if _reason(answer) == "AlreadyExists":
            return await self._read(order)
        if not answer.is_good:
            raise _create_failure(answer)
        return self._understood(answer)

    async def _read(self, order: Order) -> _Pod:
        """The pod of an order. Raises Refused when the name is somebody else's."""
        with answers.made(order.name):
            answer = await self._call(
                f"GET pods/{order.name}",
                lambda api: client.CoreV1Api(api).read_namespaced_pod(
                    order.name, self._settings.namespace, **self._how
                ),
            )
            if not answer.is_good:
                raise answer.failure()
        pod = self._understood(answer)
        if pod["metadata"].get("labels", {}).get("podium/pod") != str(order.pod_id):
            raise providers.Refused(f"Kubernetes has another pod of the name {order.name}")
        return pod

    async def _give_environment(self, order: Order, pod: _Pod) -> None:
        """Makes the pod's secret. A pod that may not have one is taken back, and refused."""
        body, namespace = secret_body(order, pod["metadata"]["uid"], self._settings), self._settings.namespace
        with answers.made(order.name):
            answer = await self._call(
                "POST secrets",
                lambda api: client.CoreV1Api(api).create_namespaced_secret(
                    namespace, body, field_validation="Strict", **self._how
                ),
                hide=order.environment.values(),
            )
            if answer.is_good or _reason(answer) == "AlreadyExists":
                return
            gone = answer.status < 500 and (await self._delete(order.name)).is_good
        raise _create_failure(answer) if gone else answer.failure(providers.Ambiguous)

    async def _page(self, token: str) -> http.Answer:
        selector = ",".join(f"{name}={value}" for name, value in self._settings.labels.items())
        more: dict[str, Any] = {"_continue": token} if token else {}
        return await self._call(
            "GET pods",
            lambda api: client.CoreV1Api(api).list_namespaced_pod(
                self._settings.namespace, label_selector=selector, limit=self._settings.page_size, **more, **self._how
            ),
        )

    async def _delete(self, name: str) -> http.Answer:
        options = client.V1DeleteOptions(api_version="v1", kind="DeleteOptions", propagation_policy="Background")
        return await self._call(
            f"DELETE pods/{name}",
            lambda api: client.CoreV1Api(api).delete_namespaced_pod(
                name, self._settings.namespace, body=options, **self._how
            ),
        )

    async def _call(
        self, call: str, request: Callable[[client.ApiClient], Awaitable[Any]], *, hide: Iterable[str] = ()
    ) -> http.Answer:
        try:
            api = await self._opened()
            secrets = [str(key).removeprefix("Bearer ") for key in api.configuration.api_key.values()]
            sent = cast(Awaitable[aiohttp.ClientResponse], request(api))
            return await answers.answered(sent, "Kubernetes", call, hide=[*secrets, *hide])
        except config.ConfigException as error:
            raise providers.Unauthorized(f"there is no way into the Kubernetes cluster: {error}") from None

    async def _opened(self) -> client.ApiClient:
        async with self._opening:
            if self._api is None:
                try:
                    self._api = client.ApiClient(await _configuration(self._settings))
                except OSError as error:
                    raise config.ConfigException(f"{error.filename}: {error.strerror}") from None
                self._api.user_agent = http._USER_AGENT
            return self._api

    def _understood(self, answer: http.Answer) -> _Pod:
        with answer.understood():
            pod: _Pod = answer.body
            _ = pod["metadata"]["uid"], self._listed(pod)
        return pod

    def _listed(self, pod: _Pod) -> Listed:
        metadata = pod["metadata"]
        notes = metadata.get("annotations") or {}
        price, count = notes.get("podium/price-usd-per-hour"), notes.get("podium/gpu-count")
        status, detail = kubernetes_phases.judge(pod, nodes_on_demand=self._settings.nodes_on_demand)
        return Listed(
            provider_pod_id=metadata["name"],
            name=metadata["name"],
            status=status,
            price_usd_per_hour=float(price) if price else None,
            gpu_type=notes.get("podium/gpu-type", ""),
            gpu_count=int(count) if count else None,
            create_time=http.time_of(metadata.get("creationTimestamp")),
            detail=detail,
        )


# --- bodies -----------------------------------------------------------------------------------------------------------


def pod_body(order: Order, settings: Settings) -> client.V1Pod:
    """The pod of an order."""
    offer = order.offer
    selector = dict(settings.node_selector)
    if offer.gpu_type:
        selector["nvidia.com/gpu.product"] = offer.gpu_type
    if offer.region:
        selector["topology.kubernetes.io/region"] = offer.region
    spec = client.V1PodSpec(
        containers=[_container(order, settings)],
        restart_policy="Never",
        termination_grace_period_seconds=settings.grace_s,
        node_selector=selector,
        tolerations=[_tolerated(key) for key in settings.tolerations] + ([_tolerated(GPU)] if offer.gpu_count else []),
        service_account_name=settings.service_account or None,
        automount_service_account_token=False,
        enable_service_links=False,
        image_pull_secrets=[client.V1LocalObjectReference(name=name) for name in settings.image_pull_secrets],
    )
    notes = {
        "podium/gpu-type": offer.gpu_type,
        "podium/gpu-count": str(offer.gpu_count),
        "podium/price-usd-per-hour": repr(offer.price_usd_per_hour),
    }
    metadata = client.V1ObjectMeta(name=order.name, labels=_labels(order, settings), annotations=notes)
    return client.V1Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec)


def secret_body(order: Order, uid: str, settings: Settings) -> client.V1Secret:
    """The environment of the pod with that uid, which owns it."""
    owner = client.V1OwnerReference(api_version="v1", kind="Pod", name=order.name, uid=uid)
    metadata = client.V1ObjectMeta(name=order.name, labels=_labels(order, settings), owner_references=[owner])
    return client.V1Secret(
        api_version="v1", kind="Secret", metadata=metadata, string_data=dict(order.environment), immutable=True
    )


def _container(order: Order, settings: Settings) -> client.V1Container:
    gpus = {GPU: str(order.offer.gpu_count)} if order.offer.gpu_count else {}
    return client.V1Container(
        name="worker",
        image=order.image,
        image_pull_policy=settings.image_pull_policy,
        args=list(order.command) or None,
        env_from=[client.V1EnvFromSource(secret_ref=client.V1SecretEnvSource(name=order.name))],
        resources=client.V1ResourceRequirements(limits=gpus, requests={"ephemeral-storage": f"{order.disk_gb}Gi"}),
    )


def _tolerated(key: str) -> client.V1Toleration:
    # Of a GPU node's taint the effect is known; for other keys any will do.
    return client.V1Toleration(key=key, operator="Exists", effect="NoSchedule" if key == GPU else None)


def _labels(order: Order, settings: Settings) -> dict[str, str]:
    return {**settings.labels, "app.kubernetes.io/name": "podium-worker", "podium/pod": str(order.pod_id)}


def _create_failure(answer: http.Answer) -> providers.ProviderError:
    if answer.status == 403 and "exceeded quota" in answer.words:
        return answer.failure(providers.NoCapacity)
    if answer.status == 409:
        # A quota that others changed at the same moment; the API says itself to come again.
        return answer.failure(providers.Throttled)
    return answer.failure()


def _reason(answer: http.Answer) -> str:
    """Of a Status that tells of a failure."""
    return str(answer.body.get("reason", "")) if isinstance(answer.body, dict) and not answer.is_good else ""


async def _configuration(settings: Settings) -> client.Configuration:
    """Raises ConfigException."""
    configuration = client.Configuration()
    if settings.api_url:
        configuration.host = settings.api_url.rstrip("/")
        configuration.ssl_ca_cert = settings.ca_file or None
        if settings.token is not None:
            configuration.api_key = {"BearerToken": f"Bearer {settings.token.get_secret_value()}"}
    elif settings.kubeconfig:
        await config.load_kube_config(
            settings.kubeconfig, settings.context or None, configuration, persist_config=False
        )
    else:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration
