"""The `sentence_transformers` backend: the library's own modules, fed by our own batching.

The modules that `SentenceTransformer.encode` would run (transformer, pooling, dense layers) are run as they are, so the
vectors are the library's. What is ours: one pass of the tokenizer over the whole batch, micro-batches cut by a token
budget, pooling and normalisation in float32 whatever the device computes in, and memory exhaustion answered by a
smaller budget that is remembered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters import model_files
from podium_worker.adapters.torch import torchvision_ops
from podium_worker.adapters.torch.tokens import BatchTokenizer, Tokenised
from podium_worker.app import backend
from podium_worker.domain import microbatches

torchvision_ops.declare_missing()

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer  # noqa: E402

# Measured: on a CPU small micro-batches stay in its caches; a GPU wants to be filled.
_TOKEN_BUDGET_CPU = 2_048
_TOKEN_BUDGET_CUDA = 65_536
_DTYPES = {"": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_POOLING: dict[str, backend.PoolingName] = {"mean": "mean", "cls": "cls"}


@dataclass(frozen=True, slots=True)
class _Work:
    tokenised: Tokenised


class TextModel:
    """One loaded text embedding model on one device."""

    def __init__(self, model: backend.Model, device: str) -> None:
        if model.precision not in _DTYPES:
            raise backend.ModelUnavailable(
                f"Workload {model.workload!r} asks for precision {model.precision!r}; "
                "use float32, bfloat16 or float16 in the registry."
            )
        self._model = model
        self._device = torch.device(device)
        loaded = _load(model, device)
        transformer = _transformer(model, loaded)
        self._tokenizer = _tokenizer(model, transformer)
        # float32 for everything after the transformer, so that pooling and norm lose nothing.
        self._transformer = transformer.to(_DTYPES[model.precision])
        self._after = [module for module in list(loaded)[1:] if not isinstance(module, Normalize)]
        self._token_budget = model.token_budget or (
            _TOKEN_BUDGET_CPU if self._device.type == "cpu" else _TOKEN_BUDGET_CUDA
        )
        self._description = backend.Description(
            pooling=_pooling(model, self._after),
            normalized=model.normalized,
            precision=model.precision or "float32",
        )

    @property
    def description(self) -> backend.Description:
        return self._description

    def prepare(self, texts: Sequence[str]) -> backend.Prepared:
        tokenised = self._tokenizer.tokenise(texts)
        return backend.Prepared(
            work=_Work(tokenised),
            item_count=len(texts),
            token_count=sum(tokenised.lengths),
            truncations=tokenised.truncations,
        )

    @torch.inference_mode()
    def compute(self, prepared: backend.Prepared, progress: Callable[[int], bool]) -> backend.Computed:
        tokenised: Tokenised = prepared.work.tokenised
        vectors = np.empty((prepared.item_count, self._model.dimension), dtype=np.float32)
        starved: set[int] = set()
        waiting = microbatches.cut(tokenised.lengths, self._token_budget)
        waiting.reverse()
        done = 0
        while waiting:
            cut = waiting.pop()
            try:
                vectors[list(cut.indices)] = self._forward(tokenised, cut)
            except torch.OutOfMemoryError:
                if len(cut.indices) > 1:
                    waiting.extend(reversed(self._shrink(tokenised, cut)))
                    continue
                starved.update(cut.indices)
            done += len(cut.indices)
            if not progress(done):
                raise backend.Abandoned
        return backend.Computed(vectors=vectors, out_of_memory=frozenset(starved))

    def _forward(self, tokenised: Tokenised, cut: microbatches.Microbatch) -> npt.NDArray[np.float32]:
        """Vectors of one micro-batch: float32, shape (items, dimension), in the order of its indices."""
        inputs = self._tokenizer.features(tokenised, cut)
        features: dict[str, Any] = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        features = self._transformer(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._after:
            features = module(features)
        pooled = features["sentence_embedding"].float()
        if pooled.shape[1] != self._model.dimension:
            raise backend.ModelUnavailable(
                f"The model of workload {self._model.workload!r} makes {pooled.shape[1]} elements; "
                f"its registry entry says {self._model.dimension}."
            )
        if self._model.normalized:
            pooled = torch.nn.functional.normalize(pooled, p=2, dim=1)
        rows: npt.NDArray[np.float32] = pooled.cpu().numpy()
        return rows

    def _shrink(self, tokenised: Tokenised, cut: microbatches.Microbatch) -> list[microbatches.Microbatch]:
        """Cuts what did not fit into halves, and remembers the smaller budget for the batches to come."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._token_budget = max(1, min(self._token_budget, cut.padded_tokens) // 2)
        lengths = [tokenised.lengths[index] for index in cut.indices]
        return [
            microbatches.Microbatch(tuple(cut.indices[local] for local in part.indices), part.width)
            for part in microbatches.cut(lengths, self._token_budget)
        ]


def _load(model: backend.Model, device: str) -> SentenceTransformer:
    """The library's own object. The hub's cache is asked before the hub. Raises backend.ModelUnavailable."""
    location = model_files.locate(model)
    offline = model.source_kind != "hub_id" or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    for local_only in (True,) if offline else (True, False):
        try:
            return SentenceTransformer(
                location.name, device=device, revision=location.revision, local_files_only=local_only
            ).eval()
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            problem = error
    advice = "download it into the hub's cache" if model.source_kind == "hub_id" else "put all of its files there"
    raise backend.ModelUnavailable(
        f"Workload {model.workload!r}: {location.name!r} cannot be loaded ({reason[0]}); {advice}."
    ) from problem


def _transformer(model: backend.Model, loaded: SentenceTransformer) -> Transformer:
    first: Any = loaded[0]
    if not isinstance(first, Transformer):
        raise backend.ModelUnavailable(
            f"The model of workload {model.workload!r} begins with {type(first).__name__}; "
            "only models that begin with a Transformer module are served."
        )
    found: Transformer = first
    return found


def _tokenizer(model: backend.Model, transformer: Transformer) -> BatchTokenizer:
    tokenizer: Any = transformer.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise backend.ModelUnavailable(
            f"The model of workload {model.workload!r} has no fast tokenizer; add a tokenizer.json to its files."
        )
    own = int(transformer.max_seq_length or tokenizer.model_max_length)
    return BatchTokenizer(
        tokenizer.backend_tokenizer.to_str(),
        min(model.max_tokens, own) if model.max_tokens else own,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_type_id=int(tokenizer.pad_token_type_id),
        needs_types="token_type_ids" in tokenizer.model_input_names,
    )


def _pooling(model: backend.Model, modules: Sequence[Any]) -> backend.PoolingName:
    """The pooling of the model's files, which has to be what the registry says. Raises backend.ModelUnavailable."""
    found = [module.pooling_mode for module in modules if isinstance(module, Pooling)]
    own = _POOLING.get(str(found[0])) if len(found) == 1 else None
    if own is None:
        raise backend.ModelUnavailable(
            f"The model of workload {model.workload!r} pools by {found or 'nothing'}; only mean and cls are served."
        )
    if model.pooling not in ("none", own):
        raise backend.ModelUnavailable(
            f"The registry says pooling {model.pooling!r} for workload {model.workload!r}, "
            f"the model's own files say {own!r}; correct the registry."
        )
    return own
