"""Podium's gateway: the stateless edge that clients talk to."""
