"""Plumbing that every Podium service shares: errors, gRPC servers and channels, auth, settings, logs, metrics."""

import os

# uvloop starts processes with fork(), and gRPC's handlers of that crash the child while gRPC's threads are busy. Nobody
# goes on with gRPC in a forked process. It reads this when it is imported, so services import this package first.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
