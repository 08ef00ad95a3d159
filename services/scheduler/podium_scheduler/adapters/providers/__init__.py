"""Who rents pods: one module each, all behind app/providers.py."""
