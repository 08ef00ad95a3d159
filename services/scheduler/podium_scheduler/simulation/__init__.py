"""The autoscaler under a virtual clock: simulated clouds, traces of work, other rules, and a bound that none beats."""
