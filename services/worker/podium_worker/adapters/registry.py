"""From the registry's Workload message to what the worker works with."""

from __future__ import annotations

from podium.common.v1 import workload_pb2
from podium_worker.app import backend
from podium_worker.domain import devices

_POOLING: dict[int, backend.PoolingName] = {
    workload_pb2.POOLING_MEAN: "mean",
    workload_pb2.POOLING_CLS: "cls",
}


def model(workload: workload_pb2.Workload, remembered_budget: int = 0) -> backend.Model:
    """What to load."""
    spec = workload.model
    kind = spec.WhichOneof("source")
    return backend.Model(
        workload=workload.name,
        backend=spec.backend,
        dimension=workload.dimension,
        model_name=spec.model_name,
        revision=spec.revision,
        source_kind=kind or "none",
        source=getattr(spec, kind) if kind else "",
        pooling=_POOLING.get(spec.pooling, "none"),
        normalized=spec.normalized,
        max_tokens=spec.max_tokens,
        precision=spec.precision,
        token_budget=spec.token_budget,
        pretrained=spec.pretrained,
        canaries=tuple(backend.Canary(one.text, tuple(one.elements), one.image) for one in spec.canaries),
        takes_texts=workload_pb2.MODALITY_TEXT in workload.modalities,
        takes_images=workload_pb2.MODALITY_IMAGE in workload.modalities,
        architecture=spec.architecture,
        image_budget=spec.image_budget,
        remembered_budget=remembered_budget,
        accepts_token_ids=workload.accepts_token_ids,
    )


def needs(workload: workload_pb2.Workload) -> devices.Needs:
    """What it asks of a device."""
    return devices.Needs(
        backend=workload.model.backend,
        vram_bytes=workload.needs.vram_bytes,
        min_compute_capability=workload.needs.min_compute_capability,
        min_cuda_version=workload.needs.min_cuda_version,
    )
