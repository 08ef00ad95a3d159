"""What the autoscaler can have done, each with its reason in plain words: for the ledger and for operators."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from podium_scheduler.domain import offers, pods


@dataclass(frozen=True, slots=True)
class Spawn:
    """Rent one pod."""

    offer: offers.Offer
    workload: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a READY pod finish what it has and give it nothing new."""

    pod_id: UUID
    cause: pods.Reason
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Give a draining pod work again: dearer to rent another."""

    pod_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Destroy:
    """Give a pod back, or do not create it if it is only intended."""

    pod_id: UUID
    cause: pods.Reason
    reason: str


class Trouble(StrEnum):
    """What an operator should know of."""

    OLD = "OLD"
    """An item has waited longer than the alert age."""
    LATE = "LATE"
    """Work will not be done by its window."""
    UNSERVABLE = "UNSERVABLE"
    """No offer may serve the workload."""
    BUDGET = "BUDGET"
    """Pods are given back, or not rented, for the budget's sake."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Tell an operator. Repeated in each round as long as it holds."""

    trouble: Trouble
    workload: str
    """Empty: it concerns all."""
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Rent nothing for a workload that has work that no pod is there for. Not an act: it is kept to explain."""

    workload: str
    reason: str


Action = Spawn | Drain | Undrain | Destroy | Alert | Wait
