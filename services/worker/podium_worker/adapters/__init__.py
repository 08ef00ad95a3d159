"""Translations between the worker's use cases and the world."""
