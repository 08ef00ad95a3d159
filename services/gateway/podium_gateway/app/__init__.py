"""The gateway's use cases: load, decide, apply. The contracts' messages are their language; adapters do the
I/O."""
