"""A Kubernetes API server on loopback, as far as bare pods and their secrets go, with a scheduler and a kubelet.

It knows the fields of all objects from the client's own generated models, and refuses others when it is asked to be
strict. It removes the secrets of pods that are gone, as the garbage collector does. A pod ends a while after it was
deleted; one that never had a node at once.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web
from kubernetes_asyncio.client import models

from podium_runtime import clock as clocks
from tests.support.clouds import stand_in
from tests.support.clouds.stand_in import Operation, Phase, Pod

TOKEN = "kube-0123456789abcdefghijklmnop"
NAMESPACE = "podium"
ENVIRONMENT = "(environment)"
"""In the body of a pod that has found its secret: what its container sees."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_GPU = "nvidia.com/gpu"
_FULL = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
_PODS = "/api/v1/namespaces/{namespace}/pods"


class Breach(Exception):
    """What was sent breaks the contract."""

    def __init__(self, status: int, reason: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class Fate:
    """What the cluster makes of a pod, beyond its misbehaviour."""

    unschedulable: str = ""
    """The scheduler's message."""
    waiting: tuple[str, str] | None = None
    """Reason and message of its container."""
    evicted: str = ""
    """The node's message."""
    preempted: bool = False


@dataclass(slots=True)
class Cluster:
    """What there is beside pods."""

    namespaces: Sequence[str] = (NAMESPACE,)
    service_accounts: Sequence[str] = ("default",)
    quota: int | None = None
    """Pods of a namespace at most."""
    secrets_fail: int = 0
    """Status that answers who makes a secret; 0: it is made."""
    fates: dict[str, Fate] = field(default_factory=dict)
    """By pod name."""


class Kubernetes(stand_in.StandIn):
    """`async with` serves it."""

    foreign = ("", 0, 0.0)

    def __init__(self, time: clocks.Clock, *, credential: str = TOKEN, ends_in_s: float = 2.0, **more: Any) -> None:
        """`ends_in_s`: from a pod's deletion to its end."""
        super().__init__(time, credential=credential, **more)
        self.cluster = Cluster()
        self.secrets: dict[str, Mapping[str, Any]] = {}
        """Every one that ever was, by name."""
        self.tokens_expire = False
        """Whether the next page token is too old by the time that it is used."""
        self._ends_in_s = ends_in_s
        self._ending: dict[str, datetime] = {}
        self._versions = itertools.count(1000)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/version/", self._version),
            web.post(_PODS, self._create),
            web.get(_PODS, self._list),
            web.get(f"{_PODS}/{{name}}", self._get),
            web.delete(f"{_PODS}/{{name}}", self._delete),
            web.post("/api/v1/namespaces/{namespace}/secrets", self._create_secret),
        ]

    def operation(self, request: web.Request) -> Operation | None:
        if request.path == "/version/":
            return Operation.OFFERS
        if request.path.endswith("/pods"):
            return Operation.CREATE if request.method == "POST" else Operation.LIST
        return Operation.DESTROY if request.method == "DELETE" else None

    def problem(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
        reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists"}
        reasons |= {410: "Expired", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError"}
        return self._status(Breach(status, reasons.get(status, "Unknown"), words), headers)

    def no_capacity(self) -> web.Response:
        return self.problem(403, 'pods "x" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=1')

    def existing(self) -> list[Pod]:
        self._end_due()
        return super().existing()

    def shown(self, misbehaviour: stand_in.Misbehaviour) -> list[Pod]:
        self._end_due()
        return super().shown(misbehaviour)

    def environment(self, name: str) -> Mapping[str, str]:
        """What the container of a pod finds, once its secret is there."""
        return next(pod for pod in self.existing() if pod.name == name).body[ENVIRONMENT]  # type: ignore[no-any-return]

    # --- handlers -----------------------------------------------------------------------------------------

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.1"})

    async def _create(self, request: web.Request) -> web.Response:
        try:
            body = await self._body(request, "V1Pod")
            _check_pod(body, self.cluster)
            self._check_room(body["metadata"]["name"])
        except Breach as breach:
            return self._status(breach)
        notes = body["metadata"].get("annotations", {})
        limits = body["spec"]["containers"][0].get("resources", {}).get("limits", {})
        pod = self.add(
            f"uid-{len(self.pods) + 1:08x}", body["metadata"]["name"], notes.get("podium/gpu-type", ""),
            int(limits.get(_GPU, 0)), float(notes.get("podium/price-usd-per-hour", 0)), body=body,
            misbehaviour=request[stand_in.MISBEHAVIOUR],
        )  # fmt: skip
        return web.json_response(self.shape(pod), status=201)

    async def _create_secret(self, request: web.Request) -> web.Response:
        if self.cluster.secrets_fail:
            return self.problem(self.cluster.secrets_fail, 'User "podium" cannot create resource "secrets"')
        try:
            body = await self._body(request, "V1Secret")
            _check_metadata(body["metadata"])
            if body["metadata"]["name"] in self.living_secrets():
                raise Breach(409, "AlreadyExists", f'secrets "{body["metadata"]["name"]}" already exists')
        except Breach as breach:
            return self._status(breach)
        self.secrets[body["metadata"]["name"]] = body
        self._mount(body)
        return web.json_response(body, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        after, limit = 0, int(request.query.get("limit", "0"))
        if "continue" in request.query:
            if self.tokens_expire:
                self.tokens_expire = False
                return self.problem(410, "The provided continue parameter is too old")
            after = int(base64.urlsafe_b64decode(request.query["continue"]))
        wanted = dict(pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair)
        shown = self.shown(request[stand_in.MISBEHAVIOUR])
        rest = [pod for pod in shown if pod.number > after and wanted.items() <= _labels(pod).items()]
        page = rest[:limit] if limit else rest
        metadata = {"resourceVersion": str(next(self._versions))}
        if len(page) < len(rest):
            metadata["continue"] = base64.urlsafe_b64encode(str(page[-1].number).encode()).decode()
        items = [self.shape(pod) for pod in page]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def _get(self, request: web.Request) -> web.Response:
        pod = self._named(request.match_info["name"])
        return web.json_response(self.shape(pod)) if pod else self._missing(request)

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self._named(request.match_info["name"])
        if pod is None:
            return self._missing(request)
        options = await self._body(request, "V1DeleteOptions") if request.can_read_body else {}
        assert options.get("propagationPolicy") in ("Background", "Foreground")
        runs = pod.phase(self.time.now(), self.pace) is not Phase.PROVISIONING and not self._unschedulable(pod)
        grace_s = self._ends_in_s if runs else 0.0
        self._ending.setdefault(pod.pod_id, self.time.now() + timedelta(seconds=grace_s))
        return web.json_response(self.shape(pod))

    # --- the cluster --------------------------------------------------------------------------------------

    def shape(self, pod: Pod) -> dict[str, Any]:
        """A pod as the API shows it."""
        metadata = {
            **pod.body.get("metadata", {"name": pod.name}),
            "namespace": NAMESPACE,
            "uid": pod.pod_id,
            "creationTimestamp": pod.create_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if pod.pod_id in self._ending:
            metadata["deletionTimestamp"] = self._ending[pod.pod_id].strftime("%Y-%m-%dT%H:%M:%SZ")
        spec = pod.body.get("spec", {})
        return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": self._stands(pod)}

    def _stands(self, pod: Pod) -> dict[str, Any]:
        fate = self.cluster.fates.get(pod.name, Fate())
        phase = pod.phase(self.time.now(), self.pace)
        if fate.evicted:
            return {"phase": "Failed", "reason": "Evicted", "message": fate.evicted}
        if phase is Phase.STOPPED:
            return {"phase": "Failed", "containerStatuses": [_container("terminated", exitCode=1, reason="Error")]}
        if words := self._unschedulable(pod):
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            return {"phase": "Pending", "conditions": [condition]}
        conditions: list[dict[str, Any]] = [{"type": "PodScheduled", "status": "True"}]
        if fate.preempted:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"})
        waiting = fate.waiting or self._lacks_environment(pod)
        if phase is Phase.RUNNING and waiting is None:
            return {"phase": "Running", "conditions": conditions, "containerStatuses": [_container("running")]}
        reason, message = waiting or ("ContainerCreating", "")
        status = _container("waiting", reason=reason, message=message)
        return {"phase": "Pending", "conditions": conditions, "containerStatuses": [status]}

    def _unschedulable(self, pod: Pod) -> str:
        fate = self.cluster.fates.get(pod.name, Fate())
        return fate.unschedulable or (_FULL if pod.misbehaviour.never_boots else "")

    def _lacks_environment(self, pod: Pod) -> tuple[str, str] | None:
        for container in pod.body.get("spec", {}).get("containers", ()):
            for source in container.get("envFrom", ()):
                name = source["secretRef"]["name"]
                if not self._is_living(name):
                    return ("CreateContainerConfigError", f'secret "{name}" not found')
        return None

    def living_secrets(self) -> dict[str, Mapping[str, Any]]:
        """Those whose owners exist."""
        self._end_due()
        return {name: body for name, body in self.secrets.items() if self._is_living(name)}

    def _is_living(self, secret: str) -> bool:
        owners = self.secrets.get(secret, {}).get("metadata", {}).get("ownerReferences", [])
        return secret in self.secrets and (not owners or any(self.find(owner["uid"]) for owner in owners))

    def _mount(self, secret: Mapping[str, Any]) -> None:
        """Notes what the containers will find that take their environment from it."""
        for pod in self.existing():
            [container] = pod.body.get("spec", {}).get("containers") or [{}]
            sources = [source["secretRef"]["name"] for source in container.get("envFrom", ())]
            if secret["metadata"]["name"] in sources:
                pod.body = {**pod.body, ENVIRONMENT: secret["stringData"]}

    def _end_due(self) -> None:
        for uid, at in list(self._ending.items()):
            if at <= self.time.now():
                self.delete(self.pods[uid])
                self.pods[uid].delete_time = at
                del self._ending[uid]

    def _named(self, name: str) -> Pod | None:
        return next((pod for pod in self.existing() if pod.name == name), None)

    def _check_room(self, name: str) -> None:
        if self._named(name) is not None:
            raise Breach(409, "AlreadyExists", f'pods "{name}" already exists')
        if self.cluster.quota is not None and len(self.existing()) >= self.cluster.quota:
            words = f'pods "{name}" is forbidden: exceeded quota: pods, limited: pods={self.cluster.quota}'
            raise Breach(403, "Forbidden", words)

    async def _body(self, request: web.Request, model: str) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        namespace = request.match_info["namespace"]
        if namespace not in self.cluster.namespaces:
            raise Breach(404, "NotFound", f'namespaces "{namespace}" not found')
        if model != "V1DeleteOptions":
            assert request.query.get("fieldValidation") == "Strict"
        _check_fields(body, model, "")
        return body

    def _missing(self, request: web.Request) -> web.Response:
        return self.problem(404, f'pods "{request.match_info["name"]}" not found')

    def _status(self, breach: Breach, headers: Mapping[str, str] | None = None) -> web.Response:
        body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(breach),
            "reason": breach.reason, "code": breach.status,
        }  # fmt: skip
        return web.json_response(body, status=breach.status, headers=headers)


def _check_fields(value: Any, kind: str, path: str) -> None:
    """Refuses fields that the model of that kind does not have."""
    inner = re.fullmatch(r"list\[(.+)\]", kind)
    if inner is not None:
        for index, one in enumerate(value):
            _check_fields(one, inner[1], f"{path[:-1]}[{index}].")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        kinds = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
        for name, one in value.items():
            if name not in kinds:
                raise Breach(400, "BadRequest", f'strict decoding error: unknown field "{path}{name}"')
            _check_fields(one, kinds[name], f"{path}{name}.")


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(metadata["name"]):
        raise Breach(
            422, "Invalid", f'metadata.name: Invalid value: "{metadata["name"]}": a lowercase RFC 1123 subdomain'
        )
    for name, value in metadata.get("labels", {}).items():
        if not _LABEL.fullmatch(value) or not _LABEL.fullmatch(name.rpartition("/")[2]):
            raise Breach(
                422, "Invalid", f'metadata.labels: Invalid value: "{value}": a valid label must consist of ...'
            )


def _check_pod(body: Mapping[str, Any], cluster: Cluster) -> None:
    _check_metadata(body["metadata"])
    spec = body["spec"]
    for container in spec.get("containers") or [{}]:
        if not container.get("name") or not container.get("image"):
            raise Breach(422, "Invalid", "spec.containers[0].image: Required value")
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if requests.get(_GPU, limits.get(_GPU)) != limits.get(_GPU):
            raise Breach(422, "Invalid", f"requests: Invalid value: must be equal to {_GPU} limit")
    if spec.get("restartPolicy") not in (None, "Always", "OnFailure", "Never"):
        raise Breach(422, "Invalid", "spec.restartPolicy: Unsupported value")
    account = spec.get("serviceAccountName", "default")
    if account not in cluster.service_accounts:
        words = f'error looking up service account {NAMESPACE}/{account}: serviceaccount "{account}" not found'
        raise Breach(403, "Forbidden", f'pods "{body["metadata"]["name"]}" is forbidden: {words}')


def _container(state: str, **said: Any) -> dict[str, Any]:
    return {"name": "worker", "ready": state == "running", "restartCount": 0, "state": {state: said}}


def _labels(pod: Pod) -> Mapping[str, str]:
    return pod.body.get("metadata", {}).get("labels", {})  # type: ignore[no-any-return]
