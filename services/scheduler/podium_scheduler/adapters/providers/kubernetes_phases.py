"""What a Kubernetes pod's own words about itself mean. Pure: a pod as the API shows it, to a status and a sentence.

Facts are of the Kubernetes API reference and of the scheduler's messages ("0/3 nodes are available: ..."). A pod that
waits for room is PENDING for as long as anybody likes; one that no node will ever take, or whose container cannot be
made, is an ERROR at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from podium_scheduler.app.providers import Status

_BROKEN = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
})  # fmt: skip
"""Reasons of a waiting container."""
_SPEC = re.compile(r"node affinity|node selector|untolerated taint")
# Taints that Kubernetes itself puts on a node that is ill, new or about to go; they pass.
_PASSING_TAINT = re.compile(
    r"untolerated taint\S* \{(node\.kubernetes\.io/|node\.cloudprovider|ToBeDeleted|DeletionCand)"
)


def judge(pod: Mapping[str, Any], *, nodes_on_demand: bool = False) -> tuple[Status, str]:
    """Status and the cluster's own words.

    nodes_on_demand: an autoscaler makes nodes for pods that wait, so that none may fit yet.
    Raises what a shape that is not the documented one leads to.
    """
    status = pod.get("status", {})
    verdict, words = _judge(pod["metadata"]["name"], status, nodes_on_demand)
    return verdict, f"Is being deleted. {words}".strip() if pod["metadata"].get("deletionTimestamp") else words


def _judge(name: str, status: Mapping[str, Any], nodes_on_demand: bool) -> tuple[Status, str]:
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    disruption = conditions.get("DisruptionTarget", {})
    phase = status.get("phase", "Pending")
    if disruption.get("status") == "True":
        return Status.ERROR, _words(disruption)
    if phase in ("Succeeded", "Failed"):
        # A reason of the whole pod is the node's doing (Evicted, UnexpectedAdmissionError), not the program's.
        return (Status.ERROR, _words(status)) if status.get("reason") else (Status.STOPPED, _end(status) or phase)
    if phase == "Running":
        return Status.RUNNING, ""
    if phase != "Pending":
        return Status.ERROR, _words({"reason": phase, **status})
    waiting = _states(status, "waiting")
    if waiting and waiting[0].get("reason") in _BROKEN and not _awaits_environment(name, waiting[0]):
        return Status.ERROR, _words(waiting[0])
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        hopeless = scheduled.get("reason") == "Unschedulable" and not nodes_on_demand
        hopeless = hopeless and fits_no_node(scheduled.get("message", ""))
        return (Status.ERROR if hopeless else Status.PENDING), _words(scheduled)
    return Status.PENDING, _words(waiting[0]) if waiting else ""


def fits_no_node(message: str) -> bool:
    """Whether the scheduler's message says that every node is of the wrong kind, and none only full or ill."""
    _, _, reasons = message.partition("nodes are available:")
    clauses = [clause for clause in re.split(r", (?=\d)", re.split(r"\.(?:\s|$)", reasons)[0]) if clause.strip()]
    return bool(clauses) and all(_SPEC.search(one) and not _PASSING_TAINT.search(one) for one in clauses)


def _awaits_environment(name: str, waiting: Mapping[str, Any]) -> bool:
    """The pod's secret is made right after the pod, because it belongs to it."""
    return f'secret "{name}" not found' in waiting.get("message", "")


def _end(status: Mapping[str, Any]) -> str:
    ended = _states(status, "terminated")
    return f"Its container ended with exit code {ended[0].get('exitCode')}: {_words(ended[0])}" if ended else ""


def _states(status: Mapping[str, Any], kind: str) -> Sequence[Mapping[str, Any]]:
    states = [container.get("state", {}) for container in status.get("containerStatuses") or ()]
    return [state[kind] for state in states if state.get(kind)]


def _words(said: Mapping[str, Any]) -> str:
    return ": ".join(str(said[key]) for key in ("reason", "message") if said.get(key))
