"""What follows from the provider's list for the pods of the ledger. The keeper lists, and applies what is said here.

The list is eventual: a pod may be missing that was made a moment ago, or be shown that is gone. So absence counts only
once the provider must have shown the pod, and ends a life only when a later list agrees; a presence that comes after
such an end reopens it. `now` is the database's, read before the list was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from podium_scheduler.domain.pods import Move, Orphan, Pod, Reason, Sighting, State

SEEN_EVERY = timedelta(seconds=30)
"""How old `last_seen_time` may get: it is for people, and a write a pod and round would be most of the work."""


class OrphanPolicy(StrEnum):
    """What becomes of a pod that bears the cluster's prefix and is in no ledger."""

    DESTROY = "DESTROY"
    ADOPT = "ADOPT"
    """It is watched and billed like any other; without a join token of ours it ends as BOOT_TIMEOUT unless it is made
    READY otherwise."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take."""

    call: timedelta = timedelta(minutes=2)
    """One call to the provider."""
    list_lag: timedelta = timedelta(0)
    """From the end of a create call until the list shows the pod."""
    absence: timedelta = timedelta(seconds=4)
    """From the first list that does not show a pod to the one that is believed; all between them agree."""
    boot: timedelta = timedelta(minutes=15)
    """From its listing until its worker has registered."""
    canary: timedelta = timedelta(minutes=10)
    """From its registration until a model has passed its canary."""
    worker: timedelta = timedelta(minutes=2)
    """From the end of its worker's session until the next."""
    drain: timedelta = timedelta(minutes=15)
    """From the wish to drain until its worker has left."""


def match(pods: Sequence[Pod], listed: Iterable[Sighting]) -> tuple[dict[UUID, Sighting], tuple[Sighting, ...]]:
    """Which pod is which: by the provider's id where it is known, else by name. Returns also what matches none."""
    by_id = {pod.provider_pod_id: pod.pod_id for pod in pods if pod.provider_pod_id}
    by_name = {pod.name: pod.pod_id for pod in pods if not pod.provider_pod_id}
    found: dict[UUID, Sighting] = {}
    strangers = []
    # A page that shifts while it is read shows a pod twice.
    for one in {one.provider_pod_id: one for one in listed}.values():
        pod_id = by_id.get(one.provider_pod_id) or by_name.pop(one.name, None)
        if pod_id is None:
            strangers.append(one)
        else:
            found[pod_id] = one
    return found, tuple(strangers)


def absent_since(pod: Pod, before: datetime | None, now: datetime, patience: Patience) -> datetime | None:
    """Of a pod that a list does not show; None while that says nothing. `before`: what the list before led to."""
    if pod.call_time is None:
        return None
    shown_by = (pod.listed_time or pod.call_time + patience.call) + patience.list_lag
    return before or (now if now >= shown_by else None)


def after_absence(pod: Pod, since: datetime, now: datetime, patience: Patience) -> Move | None:
    """What becomes of a pod that the lists since then have not shown."""
    if pod.state is State.CREATING:
        return Move(pod.pod_id, pod.state, State.FAILED, Reason.CREATE_UNRESOLVED, "the provider never listed it")
    if now <= since or now - since < patience.absence:
        return None
    if pod.state is State.DESTROYING:
        return Move(pod.pod_id, pod.state, State.DESTROYED, bill_end=since)
    return Move(pod.pod_id, pod.state, State.LOST, Reason.VANISHED, "the provider lists it no longer", bill_end=since)


def after_sighting(pod: Pod, seen: Sighting, now: datetime, patience: Patience) -> Move | None:
    """What becomes of a pod that the list shows."""
    if pod.state is State.INTENDED:
        # Somebody called for it and the ledger forgot: it was restored from a copy. Never call again.
        return Move(pod.pod_id, pod.state, State.CREATING, detail="listed before it was called for")
    if pod.state is State.DESTROYING:
        return None
    if seen.broken:
        # One that drains is expected to end by itself: it keeps the reason that it drains for.
        reason = None if pod.state is State.DRAINING else Reason.PROVIDER_ERROR
        return _ends(pod, reason, seen.detail or "the provider says that it does not run", seen)
    if pod.state is State.CREATING:
        return Move(pod.pod_id, pod.state, State.STARTING, sighting=seen)
    return _too_long(pod, now, patience)


def _too_long(pod: Pod, now: datetime, patience: Patience) -> Move | None:
    gone = pod.worker_gone_time
    if pod.state is State.STARTING:
        if pod.registered_time is None:
            if _over(pod.listed_time, patience.boot, now):
                return _ends(pod, Reason.BOOT_TIMEOUT, f"no worker registered within {patience.boot}")
        elif _over(pod.registered_time, patience.canary, now):
            return _ends(pod, Reason.CANARY_TIMEOUT, f"no model passed its canary within {patience.canary}")
    elif pod.state is State.READY and _over(gone, patience.worker, now):
        return _ends(pod, Reason.WORKER_GONE, f"its worker has been gone for {patience.worker}")
    elif pod.state is State.DRAINING:
        if gone is not None:
            return _ends(pod, None, "drained: its worker has left")
        if _over(pod.drain_time, patience.drain, now):
            return _ends(pod, None, f"not drained within {patience.drain}")
    return None


def _ends(pod: Pod, reason: Reason | None, detail: str, seen: Sighting | None = None) -> Move:
    return Move(pod.pod_id, pod.state, State.DESTROYING, reason, detail, seen)


def _over(since: datetime | None, patience: timedelta, now: datetime) -> bool:
    return since is not None and now - since > patience


def is_news(pod: Pod, seen: Sighting, now: datetime) -> bool:
    """Whether a sighting that moves nothing is worth a write all the same."""
    price = seen.price_usd_per_hour
    return (
        not pod.provider_pod_id
        or (price is not None and price != pod.price_usd_per_hour)
        or pod.last_seen_time is None
        or now - pod.last_seen_time >= SEEN_EVERY
    )


def second_name(seen: Sighting) -> str:
    """The name in the ledger of a pod whose listed name is another's."""
    return f"{seen.name}#{seen.provider_pod_id}"


def after_strange_sighting(
    seen: Sighting, known: Mapping[str, Pod], provider: str, policy: OrphanPolicy, pod_id: UUID
) -> Move | Orphan | None:
    """What becomes of a listed pod that is none of the open ones.

    `known`: the ledger's pods of its name and of its second name, whatever their state; `pod_id`: for one that is new.
    """
    for pod in (known.get(second_name(seen)), known.get(seen.name)):
        if pod is None or pod.provider != provider or pod.provider_pod_id not in ("", seen.provider_pod_id):
            continue
        if pod.end_time is None:
            # It became ours while the list was on its way.
            return None
        return Move(pod.pod_id, pod.state, State.DESTROYING, None, "the provider lists it again", seen)
    if seen.name in known:
        # Made twice under one name: nobody wants the second.
        return Orphan(pod_id, second_name(seen), provider, State.DESTROYING, seen)
    state = State.STARTING if policy is OrphanPolicy.ADOPT else State.DESTROYING
    return Orphan(pod_id, seen.name, provider, state, seen)
