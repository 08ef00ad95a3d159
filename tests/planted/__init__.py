"""Bugs that the suite must catch, and the command that plants them: `python -m tests.planted`."""
