"""How spans and money are said in reasons."""

from __future__ import annotations


def span(seconds: float) -> str:
    """As "45 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def usd(amount: float) -> str:
    """As "$0.34"."""
    return f"${amount:,.2f}"


def many(count: int, noun: str) -> str:
    """As "1 pod" or "1,200 items"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
