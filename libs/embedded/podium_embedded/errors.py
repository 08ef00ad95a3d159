"""What can go wrong with an embedded server."""


class EmbeddedError(Exception):
    """A server could not be started or kept; the message says why and what a person can do."""
