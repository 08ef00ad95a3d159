"""Podium's scheduler: the ledger, the feeder, the leases and the workers' streams."""
