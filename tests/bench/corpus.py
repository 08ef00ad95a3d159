"""Texts to embed. Real words in drawn order, from a fixed seed: the same on every machine of one Python version."""

from __future__ import annotations

import random
import re

from podium_cli import demo

SEED = 20_26


def vocabulary() -> list[str]:
    """The running words of the standard library's docstrings."""
    words: list[str] = []
    for docstring in demo.standard_library_docstrings():
        words += re.findall(r"[A-Za-z][a-z]+", docstring.text)
        if len(words) > 200_000:
            break
    return words


def short(words: list[str], count: int) -> list[str]:
    """Texts of 8 to 20 consecutive words."""
    return _cut(words, count, [(8, 20)])


def mixed(words: list[str], count: int) -> list[str]:
    """Lengths as in a real pile of text: 60% of 5 to 20 words, 30% of 20 to 80, 10% of 80 to 180."""
    return _cut(words, count, [(5, 20)] * 6 + [(20, 80)] * 3 + [(80, 180)])


def _cut(words: list[str], count: int, classes: list[tuple[int, int]]) -> list[str]:
    draw = random.Random(SEED)
    texts = []
    for _ in range(count):
        length = draw.randint(*draw.choice(classes))
        start = draw.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts
