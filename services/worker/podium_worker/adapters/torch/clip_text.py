"""The text tower of a model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters.torch import clip_tokens, lane, probing
from podium_worker.app import backend
from podium_worker.domain import microbatches


@dataclass(frozen=True, slots=True)
class _Work:
    """Token ids, and how many of each text the tower has to read."""

    ids: npt.NDArray[np.int64]
    widths: list[int]


class TextTower:
    """One text tower on one device. `towers`: the library's model; `tokenizer`: the one that belongs to it."""

    def __init__(self, model: backend.Model, device: torch.device, towers: Any, tokenizer: Any) -> None:
        self._model = model
        self._context = int(tokenizer.context_length)
        self._tokenizer = clip_tokens.make(tokenizer, model.max_tokens)
        self._causal = _Causal.of(towers)
        self._encode: Callable[[torch.Tensor], torch.Tensor] = self._causal or towers.encode_text
        # What is remembered counts images where the workload takes both.
        own = model.token_budget or (0 if model.takes_images else model.remembered_budget)
        self._lane = lane.Lane(model, device, own or 1)
        if not own:
            self._lane.budget = probing.tokens(device, self._context, self._rehearse)

    @property
    def budget(self) -> int:
        """Tokens of one micro-batch, padding included."""
        return self._lane.budget

    def prepare(self, texts: Sequence[str]) -> backend.Prepared:
        """Tokenises a whole batch."""
        tokenised = self._tokenizer.tokenise(texts)
        ids = tokenised.ids
        widths = self._causal.widths(ids) if self._causal is not None else [self._context] * len(texts)
        return backend.Prepared(
            work=_Work(ids, widths),
            item_count=len(texts),
            token_count=sum(tokenised.lengths),
            truncations=tokenised.truncations,
            token_counts=tokenised.lengths,
            sizes=widths,
        )

    def compute(
        self, work: _Work, progress: lane.Progress, company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        """As backend.Backend.compute."""

        def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
            ids = work.ids[list(cut.indices), : cut.width]
            if riders is not None:
                others: _Work = riders.work
                ids = np.concatenate([ids, others.ids[:, : cut.width]])
            return {"ids": torch.from_numpy(ids)}

        return self._lane.compute(work.widths, stage, self._forward, progress, company)

    def _forward(self, inputs: lane.Inputs) -> torch.Tensor:
        features = self._encode(inputs["ids"]).float()
        return torch.nn.functional.normalize(features, p=2, dim=1) if self._model.normalized else features

    def _rehearse(self, rows: int) -> None:
        self._lane.rehearse({"ids": torch.ones((rows, self._context), dtype=torch.int64)}, self._forward)


class _Causal:
    """A tower whose tokens see only what is before them, and whose vector is that of one token, the end of the text.

    Nothing after it can change the vector, so it is not computed. The library always computes the whole context: of
    CLIP 77 tokens, where captions have about 15. The steps are those of CLIP.encode_text and TextTransformer.forward.
    """

    def __init__(self, parts: Any, pool: str, end_id: int) -> None:
        self._parts = parts
        self._pool = pool
        self._end_id = end_id

    @classmethod
    def of(cls, towers: Any) -> _Causal | None:
        """For a tower of that kind, else None."""
        parts = getattr(towers, "text", towers)
        pool = getattr(parts, "text_pool_type", getattr(parts, "pool_type", ""))
        mask = getattr(parts, "attn_mask", None)
        usual = all(hasattr(parts, name) for name in ("token_embedding", "transformer", "ln_final", "text_projection"))
        special = getattr(parts, "cls_emb", None) is not None or getattr(parts, "use_pad_mask", False)
        if pool not in ("argmax", "eos") or not usual or special or not _is_causal(mask):
            return None
        return cls(parts, pool, int(getattr(parts, "text_eos_id", getattr(parts, "eos_id", 0)) or 0))

    def widths(self, ids: npt.NDArray[np.int64]) -> list[int]:
        """How many tokens of each row matter."""
        ends = (ids if self._pool == "argmax" else ids == self._end_id).argmax(axis=1)
        return [int(end) + 1 for end in ends]

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        parts, width = self._parts, ids.shape[1]
        dtype = parts.transformer.get_cast_dtype()
        hidden = parts.token_embedding(ids).to(dtype) + parts.positional_embedding[:width].to(dtype)
        hidden = parts.ln_final(parts.transformer(hidden, attn_mask=parts.attn_mask[:width, :width]))
        ends = (ids if self._pool == "argmax" else (ids == self._end_id).int()).argmax(dim=-1)
        pooled: torch.Tensor = hidden[torch.arange(len(ids), device=ids.device), ends]
        projection = parts.text_projection
        if projection is None:
            return pooled
        projected: torch.Tensor = projection(pooled) if callable(projection) else pooled @ projection
        return projected


def _is_causal(mask: Any) -> bool:
    """Whether each token is kept from all that follow it, as far as a mask says."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return False
    return bool(torch.isinf(mask[torch.triu(torch.ones_like(mask, dtype=torch.bool), 1)]).all())
