"""The models of one executor: told, loaded, examined, closed.

Whose thread: `know`, `get` and `forget` belong to the one that prepares, `check`, `close` and `tell_budget` to the one
that computes, so that no model is closed while it computes. Failure: a load that fails leaves nothing behind, and is
told once for each try.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from dataclasses import dataclass
from typing import Protocol

from podium.common.v1 import job_pb2, result_pb2, workload_pb2
from podium_runtime import logs
from podium_worker.adapters import faults, registry, results, wire
from podium_worker.app import backend
from podium_worker.executor import canary, failures, link

log = logs.get_logger(__name__)

_UNAVAILABLE = job_pb2.BATCH_FAILURE_REASON_MODEL_UNAVAILABLE


class Loader(Protocol):
    """Whatever makes backends here."""

    def load(self, model: backend.Model) -> backend.Backend:
        """Raises backend.ModelUnavailable."""

    def release(self) -> int:
        """Gives back memory that no model uses; returns the bytes of the device that the process keeps all the same."""


@dataclass(slots=True)
class Loaded:
    """A model whose canary has passed."""

    workload: workload_pb2.Workload
    model: backend.Model
    backend: backend.Backend
    provenance: result_pb2.Provenance
    first_budget: int
    """Its budget when it was loaded."""
    told_budget: int
    """What the front takes its budget to be."""


class Models:
    """What this process was told about, and what it has loaded."""

    def __init__(self, front: link.Link, loader: Loader, injected: faults.Faults) -> None:
        self._front = front
        self._loader = loader
        self._faults = injected
        self._known: dict[str, workload_pb2.Workload] = {}
        self._budgets: dict[str, int] = {}
        self._loaded: dict[str, Loaded] = {}

    def know(self, workload: workload_pb2.Workload, budget: int) -> Loaded | None:
        """Takes a specification. Returns the model to be closed when it was loaded by another."""
        stale = self._known.get(workload.name) != workload
        self._known[workload.name] = workload
        self._budgets[workload.name] = budget
        return self._loaded.pop(workload.name, None) if stale else None

    def loaded(self, name: str) -> Loaded | None:
        """The model of a workload if it is there."""
        return self._loaded.get(name)

    def get(self, name: str) -> Loaded:
        """The model of a workload; loads it first if need be. Raises failures.Failure."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def forget(self, name: str) -> Loaded | None:
        """Uses the model no more. Returns it, to be closed once what was begun with it is done."""
        gone = self._loaded.pop(name, None)
        if gone is not None and gone.backend.budget < gone.first_budget:
            # A batch may bring it back without a word of the front about its budget. What memory has taught is kept,
            # what was only measured is measured anew.
            self._budgets[name] = gone.backend.budget
        return gone

    def close(self, gone: Loaded | None) -> int:
        """Gives a model's memory back; returns the bytes that the process keeps although no model uses them."""
        if gone is not None:
            gone.backend.close()
        del gone
        return self._release()

    def check(self, loaded: Loaded) -> str:
        """What the canary of a model that has been used says; empty when it passes."""
        try:
            canary.examine(loaded.model, loaded.backend)
        except (canary.Unsound, canary.NotAsRecorded, backend.ModelUnavailable) as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:500]
        return ""

    def tell_budget(self, loaded: Loaded) -> None:
        """Says so when the device ran out of memory and the backend has become more modest."""
        budget = loaded.backend.budget
        if budget < loaded.told_budget:
            loaded.told_budget = budget
            self._front.tell(wire.Kind.BUDGET, {"workload": loaded.model.workload, "budget": budget})

    def _load(self, name: str) -> Loaded:
        if name not in self._known:
            raise failures.Failure(_UNAVAILABLE, f"This worker was never told about workload {name!r}.")
        self._front.tell(wire.Kind.LOADING, {"workload": name})
        started = time.monotonic()
        kind = wire.Kind.UNAVAILABLE
        try:
            made = self._make(name)
            self._faults.reach("load")
            self._tell_loaded(made, time.monotonic() - started)
            return made
        except canary.Unsound as error:
            kind, reason = wire.Kind.FAULTY, str(error)
        except (backend.ModelUnavailable, canary.NotAsRecorded) as error:
            reason = str(error)
        except Exception as error:
            log.error("model_load_error", workload=name, exc_info=error)
            reason = f"The model of workload {name!r} failed to load: {type(error).__name__}: {error}"[:500]
        # Not before here: until now the error's traceback held what was half loaded.
        self._release()
        self._front.tell(kind, {"workload": name, "reason": reason})
        raise failures.Failure(_UNAVAILABLE, reason)

    def _make(self, name: str) -> Loaded:
        workload = self._known[name]
        model = registry.model(workload, self._budgets[name])
        made = self._loader.load(model)
        try:
            if model.takes_images and made.picture is None:
                raise backend.ModelUnavailable(f"The backend {model.backend!r} of workload {name!r} takes no images.")
            canary.examine(model, made)
        except BaseException:
            made.close()
            raise
        return Loaded(workload, model, made, results.provenance(model, made.description), made.budget, made.budget)

    def _tell_loaded(self, made: Loaded, seconds: float) -> None:
        picture = made.backend.picture
        header = {
            "workload": made.model.workload,
            "seconds": seconds,
            "memory_bytes": made.backend.memory_bytes,
            "budget": made.told_budget,
            "precision": made.backend.description.precision,
            "picture": None if picture is None else dataclasses.asdict(picture),
        }
        self._front.tell(wire.Kind.LOADED, header)

    def _release(self) -> int:
        # Modules and their hooks refer to one another in circles.
        gc.collect()
        return self._loader.release()
