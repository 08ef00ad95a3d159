"""Podium's gateway: the stateless edge that clients talk to."""

import podium_runtime  # noqa: F401 - it has to come before gRPC
