"""Model hubs: their caches are asked first, and nothing is downloaded that the registry does not name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import constants

from podium_worker.app import backend

T = TypeVar("T")

# One for the process, and read at each call: transformers, timm and open_clip all go through it.
_constants: Any = constants


def is_offline() -> bool:
    """Whether nothing may be downloaded: HF_HUB_OFFLINE, or within `offline`."""
    return bool(_constants.is_offline_mode())


@contextmanager
def offline() -> Iterator[None]:
    """Whatever is loaded within comes from this machine, whichever library loads it. For one thread at a time."""
    before = _constants.HF_HUB_OFFLINE
    _constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        _constants.HF_HUB_OFFLINE = before


def is_remote(model: backend.Model) -> bool:
    """Whether its files may be downloaded: its repository is named, or a library's own table knows it by a name."""
    return model.source_kind == "hub_id" or (model.source_kind == "none" and bool(model.architecture))


def load(model: backend.Model, what: str, attempt: Callable[[], T]) -> T:
    """What `attempt` returns: first without the network, then, if the model is remote, with it.

    `what` names the model in the one sentence of backend.ModelUnavailable, which this raises for whatever goes wrong.
    """
    try:
        with offline():
            return attempt()
    except backend.ModelUnavailable:
        raise
    except Exception as error:
        problem = error
    if is_remote(model) and not is_offline():
        try:
            return attempt()
        except backend.ModelUnavailable:
            raise
        except Exception as error:
            problem = error
    advice = (
        f"run `podium models prefetch {model.workload}` where the model hub can be reached"
        if is_remote(model)
        else "put all of its files there"
    )
    raise backend.ModelUnavailable(
        f"Workload {model.workload!r}: {what} cannot be loaded ({_reason(problem)}); {advice}."
    ) from problem


def _reason(problem: Exception) -> str:
    """The first line of a message, without the full stop that would end our sentence."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    said = lines[0].rstrip(".:") if lines else ""
    name = type(problem).__name__
    return said[:300] if said and isinstance(problem, OSError | ValueError) else f"{name}: {said[:300]}".rstrip(": ")
