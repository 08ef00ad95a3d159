"""Pure rules of the worker: standard library only, no I/O, no clock."""
