"""The scheduler's use cases and loops: load, decide, apply."""
