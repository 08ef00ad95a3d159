"""Podium's Python SDK: submit inputs, get vectors in order."""
