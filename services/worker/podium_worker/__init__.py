"""Podium's worker: pulls batches over its stream, computes vectors on its devices."""
