"""Our way through CLIP's tokenizer finds the ids that the library's own call finds."""

from __future__ import annotations

import os
import sys
from typing import Any

# Before the libraries read it.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_worker.adapters.torch import clip_files, clip_tokens

_SIMPLE: Any = sys.modules[clip_files.LIBRARY].SimpleTokenizer
LIBRARY: Any = _SIMPLE()
OURS = clip_tokens.make(LIBRARY, 0)

_TEXTS = st.lists(
    st.one_of(
        st.text(),
        st.text(st.characters(max_codepoint=127)),
        st.lists(
            st.sampled_from(
                ["Don't", "I'LL", "&amp;", "&", "<end_of_text>", " ", "\r\n", "\x1b[1m", "“q”", "a_b", "'s", "9"]
            )
        ).map("".join),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_ids_are_the_librarys(texts: list[str]) -> None:
    assert isinstance(OURS, clip_tokens.BytePairs)
    np.testing.assert_array_equal(OURS.tokenise(texts).ids, LIBRARY(texts).numpy() if texts else np.zeros((0, 77)))


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_other_ways_of_cleaning_are_the_librarys(clean: str) -> None:
    library = _SIMPLE(clean=clean, context_length=12)
    texts = ["Some_words, MORE!", "  a   b ", "x " * 30, "&lt;b&gt;"]
    tokenised = clip_tokens.make(library, 0).tokenise(texts)
    np.testing.assert_array_equal(tokenised.ids, library(texts).numpy())
    assert [(cut.index, cut.token_count) for cut in tokenised.truncations] == [(2, 32)]


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_tokens, "_WORDS", 50)
    library = _SIMPLE()
    ours: Any = clip_tokens.make(library, 0)
    for start in range(0, 1_000, 10):
        texts = [f"word{chr(97 + number % 26)}{number} end" for number in range(start, start + 10)]
        np.testing.assert_array_equal(ours.tokenise(texts).ids, LIBRARY(texts).numpy())
        assert len(ours._words) <= 50
        assert len(library.cache) <= 60


def test_a_tokenizer_that_drops_words_at_random_is_left_to_the_library() -> None:
    masked = _SIMPLE(reduction_mask="simple")
    ours = clip_tokens.make(masked, 0)
    assert isinstance(ours, clip_tokens.FromLibrary)
    np.testing.assert_array_equal(ours.tokenise(["a short text"]).ids, masked(["a short text"]).numpy())
