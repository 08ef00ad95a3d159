"""What becomes of an offer that is taken: the intent of a pod, as the ledger writes it down."""

from __future__ import annotations

from uuid import UUID

from podium_scheduler.app import records
from podium_scheduler.domain import offers, pods


def intent(
    offer: offers.Offer, pod_id: UUID, prefix: str, *, why: str, workload: str = "", request_id: UUID | None = None
) -> records.NewPod:
    """A pod of this offer. `prefix`: the cluster's; `why`: in words, for its history."""
    return records.NewPod(
        pod_id=pod_id,
        name=pods.name_of(prefix, pod_id),
        provider=offer.provider,
        gpu_type=offer.gpu_type,
        gpu_count=offer.gpu_count,
        price_usd_per_hour=pods.usd(offer.price_usd_per_hour),
        vram_bytes=offer.vram_bytes,
        compute_capability=offer.compute_capability,
        device_name=offer.device_name,
        cloud=offer.cloud,
        region=offer.region,
        workload=workload,
        detail=why,
        request_id=request_id,
    )
