"""Image models with seeded random weights, saved as the libraries save them: the real loading path is used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from podium_worker.adapters.torch import clip_files, timm_model

# After those modules, which import the libraries with care for torchvision.
_open_clip: Any = sys.modules[clip_files.LIBRARY]
_timm: Any = sys.modules[timm_model.LIBRARY]

SMALL_CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
# As ViT-B-16-SigLIP: a timm tower, a text tower that sees all of its padding, a tokenizer of the hub's kind.
SMALL_SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 64,
        "hf_tokenizer_name": "nobody/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
LOOK: dict[str, Any] = {
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def save_clip(folder: Path, config: dict[str, Any] = SMALL_CLIP, look: dict[str, Any] = LOOK, *, seed: int = 0) -> Any:
    """A folder as `local-dir:` and the hub have it; returns the model, in float32 on the CPU."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": look}))
    if "hf_tokenizer_name" in config["text_cfg"]:
        _save_tokenizer(folder)
    torch.manual_seed(seed)
    kind = "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP" if config.get("custom_text") else "CLIP"
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    model: Any = getattr(_open_clip, kind)(**settings)
    _randomise(model)
    _save_weights(model, folder / "open_clip_model.safetensors")
    return model.eval()


def save_timm(folder: Path, architecture: str, *, config: bool = True, seed: int = 0) -> Any:
    """A folder as timm's `local-dir:`, or weights alone; returns the model, with its classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model: Any = _timm.create_model(architecture)
    _randomise(model)
    if config:
        _timm.models.save_for_hf(model, folder, safe_serialization=True)
    else:
        _save_weights(model, folder / "weights.safetensors")
    return model.eval()


def _randomise(model: Any) -> None:
    """What the libraries initialise with zeros and ones would hide whether it is loaded at all."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and parameter.std(correction=0) == 0:
                parameter.add_(torch.randn_like(parameter) * 0.02)


def _save_weights(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def _save_tokenizer(folder: Path) -> None:
    """Words of a small vocabulary, an end token, and padding that is the end token, as of SigLIP."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    words = ["<unk>", "</s>", *"a photo of the cat dog house tree one two three four five six seven".split()]
    inner: Any = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    outer: Any = fast(
        tokenizer_object=inner, pad_token="</s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    outer.save_pretrained(folder)
