"""Texts that come as token ids: checked against the vocabulary, cut, and put between the model's special tokens.

What a tokenizer does after it has cut a text into tokens, for ids that somebody else has made with it. Who asks for
`input_ids` of a text gets special tokens along with it by default, and who counts tokens does not: both are read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from tokenizers import Tokenizer

from podium_worker.domain import problems

# One token or a few in any vocabulary; what it is does not matter.
_SAMPLES = ("a", "The second one is a little longer.")


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads token ids for one model."""

    before: Sequence[int]
    """Special tokens before a text, and `after` it."""
    after: Sequence[int]
    vocabulary: int
    """Ids are below it."""
    max_tokens: int
    """That the model reads, special ones included."""

    @property
    def nothing(self) -> list[int]:
        """What the model reads of no text; at least one token."""
        return [*self.before, *self.after] or [0]

    def read(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """Ids as the model reads them, and how many there were, special tokens included.

        Raises problems.ItemProblem for one that is not in the vocabulary, or when there are none.
        """
        if not ids or max(ids) >= self.vocabulary:
            raise self._problem(ids)
        text = self._bare(ids)
        special = len(self.before) + len(self.after)
        return [*self.before, *text[: self.max_tokens - special], *self.after], len(text) + special

    def _bare(self, ids: Sequence[int]) -> Sequence[int]:
        """Without special tokens around them, where both sides have theirs."""
        before, after = len(self.before), len(self.after)
        stop = len(ids) - after
        if before <= stop and tuple(ids[:before]) == self.before and tuple(ids[stop:]) == self.after:
            return ids[before:stop]
        return ids

    def _problem(self, ids: Sequence[int]) -> problems.ItemProblem:
        place = next((place for place, one in enumerate(ids) if one >= self.vocabulary), None)
        what = (
            "There are no token ids."
            if place is None
            else (
                f"Token id {ids[place]} at position {place} is not in the vocabulary of the model, "
                f"whose own tokenizer has ids below {self.vocabulary}."
            )
        )
        return problems.ItemProblem(problems.Reason.UNKNOWN_TOKEN, what)


def reader(tokenizer: Tokenizer, max_tokens: int, rows: int) -> Reader | None:
    """A reader for what `tokenizer` makes; None when it does not put the same special tokens around every text.

    `tokenizer` must not truncate. `rows`: of the model's table of token embeddings, which may be longer than the
    vocabulary is.
    """
    found = {_around(tokenizer, text) for text in _SAMPLES}
    if len(found) != 1 or None in found:
        return None
    before, after = found.pop() or ((), ())
    vocabulary = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    if max_tokens <= len(before) + len(after):
        return None
    return Reader(before, after, min(vocabulary, rows), max_tokens)


def _around(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The special tokens before and after a text."""
    bare = tokenizer.encode(text, add_special_tokens=False).ids
    whole = tokenizer.encode(text)
    before = sum(1 for _ in takewhile(bool, whole.special_tokens_mask))
    after = sum(1 for _ in takewhile(bool, reversed(whole.special_tokens_mask[before:])))
    stop = len(whole.ids) - after
    if whole.ids[before:stop] != bare or before + after != tokenizer.num_special_tokens_to_add(False):
        return None
    return tuple(whole.ids[:before]), tuple(whole.ids[stop:])
