"""Use cases of the worker."""
