"""Plumbing that every Podium service shares: errors, gRPC servers and channels, auth, settings, logs, metrics."""
