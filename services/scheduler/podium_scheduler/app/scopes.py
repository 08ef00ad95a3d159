"""Within what items of equal content have equal vectors: the app, the workload as the registry has it, the options.

Everything that may change a vector is in it, so a new revision, another pooling or precision, a prefix or an encoding
each begin anew; what only says how a device computes (budgets, canaries) is not. "auto" precision is told apart where
vectors are used, by their provenance.
"""

from __future__ import annotations

import hashlib

from podium.common.v1 import item_pb2, workload_pb2

_VERSION = b"podium.scope.1"


def scope(app_id: str, workload: workload_pb2.Workload, modality: int, options: item_pb2.EmbeddingOptions) -> bytes:
    """32 bytes. An option that is unset is the same as its default."""
    model = workload_pb2.ModelSpec()
    model.CopyFrom(workload.model)
    for without in ("token_budget", "image_budget", "canaries"):
        model.ClearField(without)
    side = options.input_type if options.HasField("input_type") else workload.prefixes.default_input_type
    dimensions = options.dimensions if options.HasField("dimensions") else workload.dimension
    dtype = options.dtype if options.HasField("dtype") else workload_pb2.DTYPE_FLOAT32
    parts = [
        _VERSION,
        app_id.encode(),
        workload.name.encode(),
        str(modality).encode(),
        model.SerializeToString(deterministic=True),
        workload.prefixes.SerializeToString(deterministic=True),
        f"{workload.dimension} {side} {dimensions} {dtype}".encode(),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
