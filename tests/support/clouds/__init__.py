"""Clouds on loopback: servers that keep the documented contract of a provider, and misbehave when told to."""
