"""Loading models of open_clip: by architecture and tag, from a folder, or from a hub's repository at a revision."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from podium_worker.adapters import model_files
from podium_worker.adapters.torch import hub, torchvision_ops
from podium_worker.app import backend

torchvision_ops.declare_missing()

# open_clip turns the tokenizers' threads off for the whole process as it is imported; text models want them.
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_before = os.environ.get(_PARALLELISM)
import open_clip  # noqa: E402

if _before is None:
    os.environ.pop(_PARALLELISM, None)
else:
    os.environ[_PARALLELISM] = _before

LIBRARY = "open_clip"
_CONFIGURATION = "open_clip_config.json"
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
# Of a repository: configuration and tokenizer. Weights are fetched one by one, since there may be several formats.
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_LOOK = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The library's own model on the CPU, in float32, with its tokenizer."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class _Source:
    """Arguments of open_clip.create_model. `name` may be `local-dir:` and a folder with a configuration."""

    name: str
    pretrained: str | None = None
    look: dict[str, Any] = field(default_factory=dict)


def load(model: backend.Model) -> Loaded:
    """Both towers. Raises backend.ModelUnavailable."""
    tag = open_clip.get_pretrained_cfg(model.architecture, model.pretrained) if model.pretrained else {}
    _check(model, tag)

    def attempt() -> Loaded:
        source = _source(model, tag)
        loaded = open_clip.create_model(
            source.name, source.pretrained, force_preprocess_cfg=source.look, require_pretrained=True
        )
        # The tokenizer belongs to an image model, too, but nothing may be missing for its sake.
        tokenizer = open_clip.get_tokenizer(source.name) if model.takes_texts else None
        return Loaded(loaded.eval(), tokenizer)

    return hub.load(model, _what(model), attempt)


def _check(model: backend.Model, tag: dict[str, Any]) -> None:
    """What can be said without looking at any file."""
    if model.architecture and open_clip.get_model_config(model.architecture) is None:
        raise backend.ModelUnavailable(
            f"open_clip {open_clip.__version__} knows no architecture {model.architecture!r}, "
            f"named by workload {model.workload!r}; correct it in the registry."
        )
    if model.source_kind != "none":
        return
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model.architecture)) or "none"
        raise backend.ModelUnavailable(
            f"open_clip {open_clip.__version__} knows no tag {model.pretrained!r} of architecture "
            f"{model.architecture!r}, named by workload {model.workload!r}; its tags: {known}."
        )
    trained_quick = bool(tag.get("quick_gelu", False))
    if trained_quick != bool(open_clip.get_model_config(model.architecture).get("quick_gelu", False)):
        # open_clip only warns, and computes other vectors than those that the tag stands for.
        base = model.architecture.removesuffix("-quickgelu")
        raise backend.ModelUnavailable(
            f"The tag {model.pretrained!r} of workload {model.workload!r} was trained "
            f"{'with' if trained_quick else 'without'} QuickGELU; "
            f"name architecture {base + ('-quickgelu' if trained_quick else '')!r} in the registry."
        )


def _source(model: backend.Model, tag: dict[str, Any]) -> _Source:
    """Raises OSError or backend.ModelUnavailable where files are missing."""
    if model.source_kind == "none":
        url = tag.get("url", "")
        if hub.is_offline() and not tag.get("hf_hub") and not _url_is_cached(url):
            raise FileNotFoundError(f"{url} is not in ~/.cache/clip")
        return _Source(model.architecture, model.pretrained)
    if model.source_kind == "hub_id":
        folder = _snapshot(model)
    else:
        folder = Path(model_files.locate(model).name)
    if (folder / _CONFIGURATION).is_file():
        model_files.checkpoint(model, folder, _WEIGHTS)
        return _Source(f"local-dir:{folder}")
    if not model.architecture:
        raise backend.ModelUnavailable(
            f"There is no {_CONFIGURATION} in {str(folder)!r}, and workload {model.workload!r} names no architecture; "
            "add one of them."
        )
    file = model_files.checkpoint(model, folder, _WEIGHTS)
    # Of files alone the library knows no mean and deviation; the tag, if there is one, says them.
    return _Source(model.architecture, str(file), {key: tag[key] for key in _LOOK if key in tag})


def _snapshot(model: backend.Model) -> Path:
    """The folder of the hub's cache with one revision of a repository."""
    revision = model.revision or None
    huggingface_hub.snapshot_download(model.source, revision=revision, allow_patterns=list(_SMALL_FILES))
    for name in _WEIGHTS:
        try:
            return Path(huggingface_hub.hf_hub_download(model.source, name, revision=revision)).parent
        except hub_errors.EntryNotFoundError as error:
            absent = isinstance(error, hub_errors.RemoteEntryNotFoundError)
            if not absent and not hub.is_offline():
                raise
    raise FileNotFoundError(f"no file of weights of {model.source} at {revision or 'main'}")


def _url_is_cached(url: str) -> bool:
    """Where open_clip.download_pretrained_from_url looks."""
    return bool(url) and (Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[-1]).is_file()


def _what(model: backend.Model) -> str:
    if model.source_kind == "none":
        return f"{model.pretrained!r} of {model.architecture!r}"
    return repr(model.source)
