"""What a provider of pods is: the one protocol between the pod keeper and whoever rents machines.

A provider is stateless: everything that is known about a pod is in the ledger or in the provider's own list. `create`
is never repeated blindly: after Ambiguous the caller looks into `list`, by name. Every call is bounded in time by the
provider itself. Credentials come from settings and appear in no message, no log and no repr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from podium_scheduler.domain.offers import Cloud as Cloud
from podium_scheduler.domain.offers import Offer as Offer
from podium_scheduler.domain.offers import Stock as Stock


class Status(StrEnum):
    """What the provider's list says of a pod."""

    PENDING = "PENDING"
    """It is being made, or waits for a machine."""
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    """It exists, may bill, and computes nothing."""
    ERROR = "ERROR"
    """It exists, and the provider says that it will not run."""


@dataclass(frozen=True, slots=True)
class Order:
    """A pod to create. `environment` holds secrets: the join token among them."""

    pod_id: UUID
    name: str
    """Unique; what the pod is found by. `^[a-z0-9][a-z0-9-]{0,62}$`, begins with the cluster's prefix."""
    offer: Offer
    image: str
    command: Sequence[str]
    """Arguments of the image; empty: its own."""
    environment: Mapping[str, str] = field(repr=False)
    disk_gb: int = 40
    min_cuda_version: str = ""
    """What its driver must be good for, as "12.4", where the provider can be asked for that; empty: anything."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A pod as the provider's list shows it."""

    provider_pod_id: str
    name: str
    status: Status
    price_usd_per_hour: float | None = None
    """Of the whole pod; None: the list does not tell."""
    gpu_type: str = ""
    gpu_count: int | None = None
    create_time: datetime | None = None
    detail: str = ""
    """The provider's own words about its status."""


class Provider(Protocol):
    """Rents machines."""

    @property
    def name(self) -> str:
        """ "local", "docker", "kubernetes", "runpod" or "digitalocean"."""

    @property
    def list_lag_s(self) -> float:
        """How long after a create call the list may still not show the pod, in seconds; a generous bound."""

    async def offers(self) -> Sequence[Offer]:
        """What can be rented now. Raises ProviderError."""

    async def create(self, order: Order) -> Listed:
        """Has a pod made. Raises ProviderError; after Ambiguous the pod may exist all the same."""

    async def list(self) -> Sequence[Listed]:
        """Every pod whose name begins with the cluster's prefix, whoever made it. All pages. Raises ProviderError."""

    async def destroy(self, provider_pod_id: str) -> None:
        """Has a pod destroyed, not stopped; one that is not there is destroyed already. Raises ProviderError."""

    async def close(self) -> None:
        """Gives back what it holds. It destroys nothing."""


class ProviderError(Exception):
    """A call failed. The message is one sentence for operators, without credentials."""

    retry_after_s: float | None = None
    """When the provider says to come again."""


class NoCapacity(ProviderError):
    """The provider has none of this offer now. Nothing was created."""


class Refused(ProviderError):
    """The order breaks a rule, or this account may not have the offer. Nothing was created; trying again is no use."""


class Unauthorized(ProviderError):
    """The credentials are not good. Nothing was created; an operator has to act."""


class OutOfFunds(ProviderError):
    """The account has no money left. Nothing was created; an operator has to act."""


class Throttled(ProviderError):
    """Too many calls. Nothing was created."""


class Ambiguous(ProviderError):
    """The call had no clear answer: a timeout, a broken connection, a 5xx. It may have had its effect."""


class Unreachable(ProviderError):
    """The provider cannot be reached: the call was never sent. Nothing was created."""
