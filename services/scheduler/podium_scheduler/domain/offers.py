"""What can be rented, and whether it meets what a workload needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from podium_scheduler.domain import versions


class Cloud(StrEnum):
    """Who owns the machines of an offer."""

    NONE = "NONE"
    """The provider makes no difference."""
    SECURE = "SECURE"
    COMMUNITY = "COMMUNITY"


class Stock(StrEnum):
    """What the provider says of how many there are; never a reservation."""

    UNKNOWN = "UNKNOWN"
    NONE = "NONE"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be rented at a price."""

    provider: str
    gpu_type: str
    """As the provider names it; empty for a CPU."""
    gpu_count: int
    price_usd_per_hour: float
    """Of the whole pod."""
    vram_bytes: int = 0
    """Of one GPU; 0: none, or unknown."""
    compute_capability: str = ""
    """As "8.9"; empty: unknown."""
    device_name: str = ""
    """As workers report such a GPU (NVML's product name), by which throughputs are measured; empty: unknown."""
    cloud: Cloud = Cloud.NONE
    region: str = ""
    """Empty: the provider chooses."""
    stock: Stock = Stock.UNKNOWN
    max_count: int | None = None
    """Pods of it that may exist at once; None: no known bound."""
    cuda_version: str = ""
    """The newest that its machines can run, as "12.8"; empty: unknown, or the order can ask for it."""

    key: str = field(init=False, repr=False, compare=False)
    """Identifies it among offers; prices and stock apart. Kept, for fleets are grouped by it."""

    def __post_init__(self) -> None:
        parts = (self.provider, self.gpu_type or "cpu", str(self.gpu_count), self.cloud, self.region)
        object.__setattr__(self, "key", "/".join(parts))

    @property
    def device(self) -> str:
        """The name by which what is measured on it is found."""
        return self.device_name or self.gpu_type

    @property
    def usd_per_s(self) -> float:
        """The price of a second."""
        return self.price_usd_per_hour / 3600


@dataclass(frozen=True, slots=True)
class Needs:
    """What a workload asks of a machine."""

    vram_bytes: int = 0
    """Of one GPU. Not counted on a CPU, as the worker does not count it there."""
    compute_capability: str = ""
    """Smallest, as "8.0"; empty: any, a CPU included."""
    cuda_version: str = ""
    """Smallest, as "12.4"; empty: any. An offer that does not tell is taken: the pod's worker will."""


def meets(offer: Offer, needs: Needs) -> bool:
    """Whether a pod of the offer could serve what needs this. What an offer does not tell of a GPU does not count."""
    if versions.older(offer.compute_capability, needs.compute_capability):
        return False
    if offer.cuda_version and versions.older(offer.cuda_version, needs.cuda_version):
        return False
    return not offer.gpu_type or offer.vram_bytes >= needs.vram_bytes
