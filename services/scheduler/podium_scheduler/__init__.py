"""Podium's scheduler: the ledger, the feeder, the leases and the workers' streams."""

import podium_runtime  # noqa: F401 - it has to come before gRPC
