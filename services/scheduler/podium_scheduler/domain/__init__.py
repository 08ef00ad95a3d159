"""What the scheduler decides, as pure functions: no I/O, no clock, standard library only."""
