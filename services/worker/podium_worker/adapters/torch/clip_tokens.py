"""Tokens of the text towers of open_clip, exactly as the library makes them, with the true length of every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from podium_worker.app import backend

# Words whose tokens are kept. The library keeps all that it ever saw.
_WORDS = 65_536


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids: int64, shape (texts, context length), padded. `lengths` count what is not padding."""

    ids: npt.NDArray[np.int64]
    lengths: list[int]
    truncations: list[backend.Truncated]


class ClipTokenizer(Protocol):
    """What a text tower reads."""

    def tokenise(self, texts: Sequence[str]) -> Tokenised:
        """Ids of a batch."""


def make(tokenizer: Any, max_tokens: int) -> ClipTokenizer:
    """For a tokenizer of open_clip. `max_tokens`: where texts are cut, 0: at the context length."""
    if type(tokenizer).__name__ == "SimpleTokenizer" and tokenizer.reduction_fn is None:
        return BytePairs(tokenizer, max_tokens)
    return FromLibrary(tokenizer, max_tokens)


class BytePairs:
    """CLIP's own tokenizer. Seven times as fast as the library's class, which does the work once for each word."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context = int(tokenizer.context_length)
        self._limit = min(max_tokens or self._context, self._context)
        self._is_lower = getattr(tokenizer.clean_fn, "__name__", "") == "_clean_lower"
        self._words: dict[str, list[int]] = {}

    def tokenise(self, texts: Sequence[str]) -> Tokenised:
        ids: npt.NDArray[np.int64] = np.zeros((len(texts), self._context), dtype=np.int64)
        lengths: list[int] = []
        truncations: list[backend.Truncated] = []
        for index, text in enumerate(texts):
            row = [self._tokenizer.sot_token_id, *self._encode(text), self._tokenizer.eot_token_id]
            if len(row) > self._limit:
                truncations.append(backend.Truncated(index, len(row), self._limit))
                row = [*row[: self._limit - 1], self._tokenizer.eot_token_id]
            ids[index, : len(row)] = row
            lengths.append(len(row))
        return Tokenised(ids, lengths, truncations)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in self._tokenizer.pat.findall(self._clean(text)):
            known = self._words.get(word)
            if known is None:
                known = self._remember(word)
            ids.extend(known)
        return ids

    def _clean(self, text: str) -> str:
        # Of such a text ftfy and the entities of HTML change nothing; asking them is most of the library's time.
        if self._is_lower and text.isascii() and text.isprintable() and "&" not in text:
            return " ".join(text.split()).lower()
        cleaned: str = self._tokenizer.clean_fn(text)
        return cleaned

    def _remember(self, word: str) -> list[int]:
        if len(self._words) >= _WORDS:
            self._words.clear()
            # The library's own memory of words, which has no bound; special tokens map to themselves.
            special = self._tokenizer.all_special_ids
            self._tokenizer.cache = {
                self._tokenizer.decoder[token]: self._tokenizer.decoder[token] for token in special
            }
        letters = "".join(self._tokenizer.byte_encoder[byte] for byte in word.encode())
        found = [self._tokenizer.encoder[part] for part in self._tokenizer.bpe(letters).split(" ")]
        self._words[word] = found
        return found


class FromLibrary:
    """Any other tokenizer: the library's call decides; only what was cut off is counted here."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context = int(tokenizer.context_length)
        self._limit = min(max_tokens or self._context, self._context)
        self._inner = getattr(tokenizer, "tokenizer", None)
        self._pad_id = int(getattr(self._inner, "pad_token_id", 0) or 0)

    def tokenise(self, texts: Sequence[str]) -> Tokenised:
        cut: npt.NDArray[np.int64] = self._tokenizer(list(texts), context_length=self._limit).numpy()
        # The towers read the padding, too, so there is always as much as they were trained with.
        ids: npt.NDArray[np.int64] = np.full((len(texts), self._context), self._pad_id, dtype=np.int64)
        ids[:, : cut.shape[1]] = cut
        lengths = [self._limit] * len(texts)
        truncations: list[backend.Truncated] = []
        if self._inner is not None:
            totals = self._totals(texts)
            lengths = [min(total, self._limit) for total in totals]
            truncations = [
                backend.Truncated(index, total, self._limit)
                for index, total in enumerate(totals)
                if total > self._limit
            ]
        return Tokenised(ids, lengths, truncations)

    def _totals(self, texts: Sequence[str]) -> list[int]:
        """Tokens of whole texts, special ones included."""
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        return [len(row) for row in self._inner(cleaned, truncation=False, padding=False).input_ids]  # type: ignore[misc]
