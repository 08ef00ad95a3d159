"""Tools of the build: not installed, run from the repository's root."""
