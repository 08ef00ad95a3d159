"""The shipped image models with one layer each: what stands for their names in the libraries' tables, made small.

The tables of tags, repositories and files stay as they are, and so does every step of loading. As a program it is
`python -m podium_worker prefetch` with such models: `python -m tests.support.shallow_models WORKLOAD ... < registry`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podium_runtime import lifecycle
from podium_worker import prefetch
from podium_worker.adapters.torch import clip_files, timm_model
from tests.support import seeded_models

_open_clip: Any = sys.modules[clip_files.LIBRARY]
_timm: Any = sys.modules[timm_model.LIBRARY]

CLIP, SIGLIP, EVA = "ViT-B-32", "ViT-B-16-SigLIP", "eva02_large_patch14_448"
SetItem = Callable[[dict[str, Any], str, Any], None]


def shrink(setitem: SetItem = dict.__setitem__) -> None:
    """Does it to this process, by way of `setitem`."""
    configs = _open_clip.factory._MODEL_CONFIGS
    clip, siglip = configs[CLIP], configs[SIGLIP]
    for architecture in (EVA, siglip["vision_cfg"]["timm_model_name"]):
        entrance = _timm.models.model_entrypoint(architecture)
        setitem(_timm.models._registry._model_entrypoints, architecture, functools.partial(entrance, depth=1))
    setitem(configs, CLIP, {**seeded_models.SMALL_CLIP, "embed_dim": clip["embed_dim"]})
    tokenizer = {"hf_tokenizer_name": siglip["text_cfg"]["hf_tokenizer_name"]}
    setitem(configs, SIGLIP, {**siglip, "text_cfg": {**seeded_models.SMALL_SIGLIP["text_cfg"], **tokenizer}})


def save(architecture: str, tag: str, folder: Path) -> None:
    """What is in the repository of a tag, of the model as it is named here and now, with seeded weights."""
    if not tag:
        seeded_models.save_timm(folder, architecture)
        return
    look = {key: _open_clip.get_pretrained_cfg(architecture, tag)[key] for key in seeded_models.LOOK}
    seeded_models.save_clip(folder, _open_clip.get_model_config(architecture), look)


if __name__ == "__main__":
    lifecycle.collect_rarely()
    shrink()
    raise SystemExit(prefetch.main(sys.argv[1:]))
