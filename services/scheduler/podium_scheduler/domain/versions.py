"""Versions of CUDA and of compute capability, which are compared by their numbers: "12.10" comes after "12.9"."""

from __future__ import annotations


def parsed(text: str) -> tuple[int, ...]:
    """ "9.0" as (9, 0); what is no version, as workers and providers may tell it, comes before all."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else ()


def older(told: str, least: str) -> bool:
    """Whether what is told comes before the least that is asked for; nothing does where that is empty."""
    return bool(least) and parsed(told) < parsed(least)
