"""Tokenising a whole batch at once, with the true length of every text known before it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding, Tokenizer

from podium_worker.adapters.torch import token_ids
from podium_worker.app import backend
from podium_worker.domain import microbatches, problems

# The tokenizer's threads may be busy with a whole batch: so many are done sooner on the thread that wants them.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids of every item, after truncation, in input order. An item that failed has those of no text."""

    ids: list[list[int]]
    lengths: list[int]
    truncations: list[backend.Truncated]
    failures: list[problems.ItemFailure] = field(default_factory=list)

    @property
    def read(self) -> list[int]:
        """Tokens of each item that were read: none of one that failed."""
        failed = {failure.index for failure in self.failures}
        return [0 if index in failed else n for index, n in enumerate(self.lengths)] if failed else self.lengths


class BatchTokenizer:
    """A fast tokenizer of its own: safe to use while the model's other parts run on another thread."""

    def __init__(
        self, serialized: str, max_tokens: int, *, pad_id: int, pad_type_id: int, needs_types: bool, rows: int
    ) -> None:
        """`rows`: of the model's table of token embeddings."""
        self._tokenizer = Tokenizer.from_str(serialized)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._reader = token_ids.reader(self._tokenizer, max_tokens, rows)
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(False)
        self.max_tokens = max_tokens
        self._pad_id = pad_id
        self._pad_type_id = pad_type_id
        self._needs_types = needs_types

    @property
    def reads_ids(self) -> bool:
        """Whether texts may come as token ids."""
        return self._reader is not None

    def tokenise(self, texts: Sequence[backend.Text]) -> Tokenised:
        """Token ids with special tokens, of texts and of token ids without. The tokenizer itself spreads texts over the
        cores."""
        strings = [text for text in texts if isinstance(text, str)]
        found = self._tokenise(strings)
        return found if len(strings) == len(texts) else self._mixed(texts, found)

    def _tokenise(self, texts: list[str]) -> Tokenised:
        if len(texts) <= _FEW:
            encodings = [self._tokenizer.encode(text) for text in texts]
        else:
            encodings = self._tokenizer.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        lengths = [len(row) for row in ids]
        truncations = []
        for index, length in enumerate(lengths):
            # What was cut off is only there when the text filled the model; asking is not free.
            if length >= self.max_tokens:
                total = self._whole_length(encodings[index])
                if total > length:
                    truncations.append(backend.Truncated(index, total, self.max_tokens))
        return Tokenised(ids, lengths, truncations)

    def _mixed(self, texts: Sequence[backend.Text], strings: Tokenised) -> Tokenised:
        """`strings`: of those that are texts, one after the other."""
        assert self._reader is not None, "whoever accepts token ids has looked"
        made = Tokenised([], [], [])
        rows, totals = iter(strings.ids), {cut.index: cut.token_count for cut in strings.truncations}
        place = 0
        for index, text in enumerate(texts):
            if isinstance(text, str):
                row, total = next(rows), totals.get(place, 0)
                place += 1
            else:
                try:
                    row, total = self._reader.read(text)
                except problems.ItemProblem as problem:
                    made.failures.append(problems.ItemFailure(index, problem.reason, problem.message))
                    row, total = self._reader.nothing, 0
            made.ids.append(row)
            made.lengths.append(len(row))
            if total > len(row):
                made.truncations.append(backend.Truncated(index, total, self.max_tokens))
        return made

    def _whole_length(self, encoding: Encoding) -> int:
        """Tokens of the text before truncation; each overflowing piece has special tokens of its own."""
        pieces = encoding.overflowing
        return len(encoding.ids) + sum(len(piece.ids) - self._special_tokens for piece in pieces)

    def features(
        self, tokenised: Tokenised, cut: microbatches.Microbatch, riders: Tokenised | None = None
    ) -> dict[str, torch.Tensor]:
        """Model inputs of one micro-batch: int64 tensors of shape (items, width), padded on the right."""
        rows = [tokenised.ids[index] for index in cut.indices]
        if riders is not None:
            rows += riders.ids
        shape = (len(rows), cut.width)
        ids: npt.NDArray[np.int64] = np.full(shape, self._pad_id, dtype=np.int64)
        mask: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self._needs_types:
            types = np.where(mask == 1, 0, self._pad_type_id).astype(np.int64)
            features["token_type_ids"] = torch.from_numpy(types)
        return features
