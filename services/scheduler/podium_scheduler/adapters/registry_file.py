"""The registry of workloads, from one YAML file.

Promises: a file either becomes a Registry as a whole, or one RegistryError whose message is one line that names
the file, the line and column, the field and what is wrong with it. Nothing is fetched or loaded here.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
import yaml

from podium.common.v1 import workload_pb2
from podium_scheduler.adapters import registry_entries as entries

_MAX_DEPTH = 16
FieldPath = tuple[str | int, ...]


class RegistryError(Exception):
    """The registry cannot be used. The message is one line for people."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The workloads of one file."""

    workloads: Mapping[str, workload_pb2.Workload]
    """By name, in the order of their names."""
    sha256: str
    """Of the file's bytes, in hex: two replicas with the same digest serve the same workloads."""


def load(path: Path) -> Registry:
    """Reads a registry file. Raises RegistryError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse(data, str(path))


def load_default() -> Registry:
    """The registry that comes with the package."""
    return parse(importlib.resources.files("podium_scheduler").joinpath("registry.yaml").read_bytes(), "registry.yaml")


def parse(data: bytes, name: str) -> Registry:
    """Reads the bytes of a registry file; `name` stands for it in errors. Raises RegistryError."""
    document = _compose(data, name)
    try:
        file = entries.File.model_validate(document.value)
    except pydantic.ValidationError as error:
        found = [(_path(problem), _sentence(problem)) for problem in error.errors(include_url=False)]
    else:
        found = list(entries.problems(file))
        if not found:
            workloads = {key: _workload(key, file.workloads[key]) for key in sorted(file.workloads)}
            return Registry(MappingProxyType(workloads), hashlib.sha256(data).hexdigest())
    # A misspelt field is also a missing one; the misspelling is what a person has to see.
    found.sort(key=lambda problem: (problem[1] == _SENTENCES["missing"], document.place(problem[0])))
    path, sentence = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise document.error(path, sentence + more)


@dataclass(slots=True)
class _Document:
    """A YAML document as plain values, with the place (line, column, from 1) of every field."""

    name: str
    value: object = None
    places: dict[FieldPath, tuple[int, int]] = field(default_factory=dict)

    def place(self, path: FieldPath) -> tuple[int, int]:
        """Where a field is, or the nearest thing around it that is there."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def error(self, path: FieldPath, sentence: str) -> RegistryError:
        line, column = self.place(path)
        where = ".".join(map(str, path))
        return RegistryError(f"{self.name}:{line}:{column}: {where + ': ' if where else ''}{sentence}")


class _Loader(yaml.SafeLoader):
    """YAML without aliases: an aliased field would have one line and two paths."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not supported here", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _compose(data: bytes, name: str) -> _Document:
    document = _Document(name)
    try:
        loader = _Loader(data.decode())
        node = loader.get_single_node()
        if node is None:
            raise RegistryError(f"{name}:1:1: the file is empty; it needs a mapping 'workloads'")
        document.value = _plain(loader, node, (), document)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RegistryError(f"{name}:{line}:1: is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise RegistryError(f"{name}:{at}: {_one_line(error.problem or 'is not YAML')}") from error
    except yaml.YAMLError as error:
        raise RegistryError(f"{name}:1:1: is not YAML: {_one_line(str(error))}") from error
    return document


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: FieldPath, document: _Document) -> object:
    # Its own walk and not yaml's constructor, which drops the marks and lets the last of two equal keys win.
    document.places.setdefault(path, _mark(node))
    if len(path) > _MAX_DEPTH:
        raise document.error(path[:2], "is nested too deeply")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, child, (*path, index), document) for index, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    values: dict[str, object] = {}
    for key_node, child in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a field's name must be text", problem_mark=key_node.start_mark)
        key = str(key_node.value)
        here = (*path, key)
        if key in values:
            first, _ = document.place(here)
            document.places[here] = _mark(key_node)
            raise document.error(here, f"is given twice; first in line {first}")
        values[key] = None
        document.places[here] = _mark(child if isinstance(child, yaml.ScalarNode) else key_node)
        values[key] = _plain(loader, child, here, document)
    return values


def _mark(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _one_line(sentence: str) -> str:
    return re.sub(r"\s+", " ", sentence).strip()


def _path(problem: Any) -> FieldPath:
    return tuple(part for part in problem["loc"] if part != "[key]")


_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is no field of the registry",
    "int_type": "must be a whole number",
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters long",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "list_type": "must be a list",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
_PATTERNS = {
    "local_path": "must be an absolute path, for it is read on the worker",
    "python_package": "must read package_name:folder/in/package",
    "hub_id": "must read organisation/name",
    "min_compute_capability": 'must be text such as "8.0"',
    "min_cuda_version": 'must be text such as "12.4"',
    "architecture": "must be a name such as ViT-B-32",
}


def _sentence(problem: Any) -> str:
    if problem["type"] == "string_pattern_mismatch":
        return _PATTERNS[str(problem["loc"][-1])]
    template = _SENTENCES.get(problem["type"])
    if template is None:
        return _one_line(str(problem["msg"]))
    return _one_line(template.format(**problem.get("ctx", {})))


_POOLING = {
    "mean": workload_pb2.POOLING_MEAN,
    "cls": workload_pb2.POOLING_CLS,
    "none": workload_pb2.POOLING_NONE,
}
_ENCODINGS = {
    "float16": workload_pb2.DTYPE_FLOAT16,
    "int8": workload_pb2.DTYPE_INT8,
    "binary": workload_pb2.DTYPE_BINARY,
}
_INPUT_TYPES = {"query": workload_pb2.INPUT_TYPE_QUERY, "passage": workload_pb2.INPUT_TYPE_PASSAGE}


def _workload(name: str, entry: entries.Entry) -> workload_pb2.Workload:
    modalities = []
    if entry.takes_text:
        modalities.append(workload_pb2.MODALITY_TEXT)
    if entry.takes_images:
        modalities.append(workload_pb2.MODALITY_IMAGE)
    workload = workload_pb2.Workload(
        name=name,
        modalities=modalities,
        dimension=entry.dimension,
        description=entry.description,
        limits=workload_pb2.WorkloadLimits(
            max_text_bytes=entry.limits.max_text_bytes or 0,
            max_image_bytes=entry.limits.max_image_bytes or 0,
            max_image_pixels=entry.limits.max_image_pixels or 0,
        ),
        batch=workload_pb2.BatchShape(max_items=entry.batch.max_items, max_bytes=entry.batch.max_bytes),
        model=_model(entry.model),
        needs=workload_pb2.DeviceNeeds(
            vram_bytes=entry.needs.vram,
            min_compute_capability=entry.needs.min_compute_capability or "",
            min_cuda_version=entry.needs.min_cuda_version or "",
        ),
        dtypes=[workload_pb2.DTYPE_FLOAT32, *sorted(_ENCODINGS[e] for e in entry.offered_encodings)],
        truncated_dimensions=entry.dimensions,
        accepts_token_ids=entry.accepts_token_ids,
    )
    workload.needs.load_timeout.FromTimedelta(entry.needs.load_timeout)
    for canary in entry.canaries:
        known = workload.model.canaries.add(elements=canary.vector)
        if canary.image is not None:
            known.image = canary.image
        else:
            known.text = entry.canary_text(canary)
    if entry.prefixes is not None:
        workload.prefixes.query = entry.prefixes.query
        workload.prefixes.passage = entry.prefixes.passage
        workload.prefixes.default_input_type = _INPUT_TYPES[entry.prefixes.default]
    return workload


def _model(model: entries.Model) -> workload_pb2.ModelSpec:
    source: dict[str, Any] = {name: getattr(model, name) for name in model.sources}
    return workload_pb2.ModelSpec(
        backend=model.backend,
        model_name=model.name,
        revision=model.revision,
        pooling=_POOLING[model.pooling],
        normalized=model.normalized,
        max_tokens=model.max_tokens,
        precision=model.precision,
        token_budget=model.token_budget,
        pretrained=model.pretrained or "",
        architecture=model.architecture or "",
        image_budget=model.image_budget,
        **source,
    )
