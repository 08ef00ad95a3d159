"""Podium's worker: pulls batches over its stream, computes vectors on its devices."""

import podium_runtime  # noqa: F401 - it has to come before gRPC
