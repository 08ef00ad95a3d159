"""Tokenising a whole batch at once, with the true length of every text known before it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding, Tokenizer

from podium_worker.app import backend
from podium_worker.domain import microbatches

# The tokenizer's threads may be busy with a whole batch: so many are done sooner on the thread that wants them.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids of every item, after truncation, in input order."""

    ids: list[list[int]]
    lengths: list[int]
    truncations: list[backend.Truncated]


class BatchTokenizer:
    """A fast tokenizer of its own: safe to use while the model's other parts run on another thread."""

    def __init__(self, serialized: str, max_tokens: int, *, pad_id: int, pad_type_id: int, needs_types: bool) -> None:
        self._tokenizer = Tokenizer.from_str(serialized)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(False)
        self.max_tokens = max_tokens
        self._pad_id = pad_id
        self._pad_type_id = pad_type_id
        self._needs_types = needs_types

    def tokenise(self, texts: Sequence[str]) -> Tokenised:
        """Token ids with special tokens. The tokenizer itself spreads the batch over the cores."""
        if len(texts) <= _FEW:
            encodings = [self._tokenizer.encode(text) for text in texts]
        else:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
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
