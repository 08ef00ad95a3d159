"""The `sentence_transformers` backend: the library's own modules, fed by our own batching.

The modules that `SentenceTransformer.encode` would run (transformer, pooling, dense layers) are run as they are, so the
vectors are the library's. What is ours: one pass of the tokenizer over the whole batch, micro-batches cut by a token
budget, and pooling and normalisation in float32 whatever the device computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from podium_worker.adapters import model_files
from podium_worker.adapters.torch import hub, lane, memory, precision, probing, torchvision_ops
from podium_worker.adapters.torch.tokens import BatchTokenizer, Tokenised
from podium_worker.app import backend
from podium_worker.domain import microbatches

torchvision_ops.declare_missing()

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer  # noqa: E402

_POOLING: dict[str, backend.PoolingName] = {"mean": "mean", "cls": "cls"}


class TextModel:
    """One loaded text embedding model on one device."""

    def __init__(self, model: backend.Model, device: torch.device) -> None:
        self._model = model
        dtype = precision.dtype(model, device)
        loaded = _load(model)
        transformer = _transformer(model, loaded)
        self._tokenizer = _tokenizer(model, transformer)
        if model.accepts_token_ids and not self._tokenizer.reads_ids:
            raise backend.ModelUnavailable(
                f"The tokenizer of workload {model.workload!r} does not put the same special tokens around every text; "
                "take accepts_token_ids out of its registry entry."
            )
        # float32 for everything after the transformer, so that pooling and norm lose nothing.
        self._transformer = transformer.to(device=device, dtype=dtype)
        self._after = [module.to(device) for module in list(loaded)[1:] if not isinstance(module, Normalize)]
        self._description = backend.Description(
            pooling=_pooling(model, self._after),
            normalized=model.normalized,
            precision=precision.name(dtype),
        )
        self._memory_bytes = memory.weights_bytes([self._transformer, *self._after])
        self._lane = lane.Lane(model, device, model.token_budget or model.remembered_budget or 1)
        if not (model.token_budget or model.remembered_budget):
            self._lane.budget = probing.tokens(device, self._tokenizer.max_tokens, self._rehearse)

    @property
    def description(self) -> backend.Description:
        return self._description

    @property
    def picture(self) -> None:
        return None

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    @property
    def budget(self) -> int:
        return self._lane.budget

    def prepare_texts(self, texts: Sequence[backend.Text]) -> backend.Prepared:
        tokenised = self._tokenizer.tokenise(texts)
        return backend.Prepared(
            work=tokenised,
            item_count=len(texts),
            token_count=sum(tokenised.read),
            truncations=tokenised.truncations,
            token_counts=tokenised.read,
            sizes=tokenised.lengths,
            failures=tokenised.failures,
        )

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> backend.Prepared:
        raise TypeError(f"workload {self._model.workload!r} takes texts only")

    def compute(
        self, prepared: backend.Prepared, progress: Callable[[int], bool], company: backend.Company = backend.ALONE
    ) -> backend.Computed:
        tokenised: Tokenised = prepared.work

        def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
            return self._tokenizer.features(tokenised, cut, riders.work if riders is not None else None)

        return self._lane.compute(tokenised.lengths, stage, self._forward, progress, company)

    def close(self) -> None:
        del self._transformer, self._after
        memory.release()

    def _forward(self, inputs: lane.Inputs) -> torch.Tensor:
        """Vectors of one micro-batch on the device: float32, shape (items, dimension)."""
        features: dict[str, Any] = self._transformer(dict(inputs))
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._after:
            features = module(features)
        pooled: torch.Tensor = features["sentence_embedding"].float()
        return torch.nn.functional.normalize(pooled, p=2, dim=1) if self._model.normalized else pooled

    def _rehearse(self, rows: int) -> None:
        """A micro-batch of the longest texts."""
        width = self._tokenizer.max_tokens
        fake = Tokenised([[1] * width] * rows, [width] * rows, [])
        cut = microbatches.Microbatch(tuple(range(rows)), width)
        self._lane.rehearse(self._tokenizer.features(fake, cut), self._forward)


def _load(model: backend.Model) -> SentenceTransformer:
    """The library's own object, on the CPU. Raises backend.ModelUnavailable."""
    location = model_files.locate(model)

    def attempt() -> SentenceTransformer:
        return SentenceTransformer(
            location.name, device="cpu", revision=location.revision, local_files_only=hub.is_offline()
        ).eval()

    return hub.load(model, repr(location.name), attempt)


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
        rows=_rows(transformer),
    )


def _rows(transformer: Transformer) -> int:
    """Of the table that token ids are looked up in: what is beyond it would be read beyond it."""
    model: Any = transformer.auto_model
    return int(model.get_input_embeddings().num_embeddings)


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
