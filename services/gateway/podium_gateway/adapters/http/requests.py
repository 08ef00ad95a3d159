"""The body of `POST /v1/embeddings`: what it may hold, checked field by field.

As with OpenAI, a field that nobody knows is refused, not dropped; `user` is theirs, for their abuse detection, and is
ignored. `input_type` is ours, as `extra_body` of their client: the side of an asymmetric model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from podium.common.v1 import workload_pb2
from podium_gateway.app import embed_texts
from podium_gateway.domain import requests
from podium_runtime import errors

MAX_INPUTS = 2048
"""Texts in one request, or lists of token ids, as OpenAI has it."""
MAX_REPORTED = 100

_FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user", "input_type"})
_INPUT_TYPES = {"query": int(workload_pb2.INPUT_TYPE_QUERY), "passage": int(workload_pb2.INPUT_TYPE_PASSAGE)}
_FORMATS = ("float", "base64")
_MAX_TOKEN_ID = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A request that is well formed; whether the workload allows it is another's business."""

    model: str
    inputs: Sequence[embed_texts.Input]
    """All of one kind."""
    options: requests.Options
    base64: bool
    single: bool
    """Whether `input` was one text, or the token ids of one."""


def parse(body: bytes) -> EmbeddingsRequest:
    """Raises errors.InvalidArgument, whose field paths are those of the JSON, with every violation."""
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad([errors.Violation("", f"the body is not JSON: {error}")], "MALFORMED_JSON") from error
    if not isinstance(sent, dict):
        raise _bad([errors.Violation("", "the body must be a JSON object")], "MALFORMED_JSON")
    bad: list[errors.Violation] = []
    for name in sorted(sent.keys() - _FIELDS):
        bad.append(errors.Violation(name[:100], "is no field of an embeddings request"))
    model = _model(sent, bad)
    inputs, single = _inputs(sent.get("input"), bad)
    options = requests.Options(input_type=_input_type(sent, bad), dimensions=_dimensions(sent, bad))
    base64 = _format(sent, bad) == "base64"
    if "user" in sent and not isinstance(sent["user"], str | None):
        bad.append(errors.Violation("user", "must be a string"))
    if bad:
        raise _bad(bad)
    return EmbeddingsRequest(model, inputs, options, base64, single)


def _bad(found: list[errors.Violation], reason: str = "") -> errors.InvalidArgument:
    return errors.InvalidArgument(found[:MAX_REPORTED], reason=reason)


def _model(sent: Mapping[str, Any], bad: list[errors.Violation]) -> str:
    model = sent.get("model")
    if isinstance(model, str) and model:
        return model
    bad.append(errors.Violation("model", "is required: the name of a workload; GET /v1/models lists them"))
    return ""


def _inputs(sent: Any, bad: list[errors.Violation]) -> tuple[Sequence[embed_texts.Input], bool]:
    """What is to be embedded, and whether it is one: a text, texts, the token ids of one text, or of several."""
    if isinstance(sent, str):
        return (sent,), True
    if not isinstance(sent, list):
        bad.append(errors.Violation("input", "is required: a string, or a list of strings"))
    elif not sent:
        bad.append(errors.Violation("input", f"is empty; a request has 1 to {MAX_INPUTS:,} texts"))
    elif _is_whole(sent[0]):
        _check_ids("input", sent, bad)
        return (sent,), True
    elif len(sent) > MAX_INPUTS:
        bad.append(errors.Violation("input", f"holds {len(sent):,} texts; a request has at most {MAX_INPUTS:,}"))
    elif isinstance(sent[0], list):
        for index, ids in enumerate(sent):
            if len(bad) < MAX_REPORTED:
                _check_ids(f"input[{index}]", ids, bad)
        return sent, False
    else:
        strangers = [index for index, text in enumerate(sent) if not isinstance(text, str)]
        bad.extend(errors.Violation(f"input[{index}]", "must be a string") for index in strangers)
        return sent, False
    return (), False


def _check_ids(path: str, ids: Any, bad: list[errors.Violation]) -> None:
    if not isinstance(ids, list):
        bad.append(errors.Violation(path, "must be a list of token ids, as the first one is"))
    elif not ids:
        bad.append(errors.Violation(path, "is empty"))
    elif set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > _MAX_TOKEN_ID:
        why = f"must be a token id: a whole number, 0 to {_MAX_TOKEN_ID:,}"
        wrong = [place for place, one in enumerate(ids) if not _is_whole(one) or not 0 <= one <= _MAX_TOKEN_ID]
        bad.extend(errors.Violation(f"{path}[{place}]", why) for place in wrong[:MAX_REPORTED])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _input_type(sent: Mapping[str, Any], bad: list[errors.Violation]) -> int | None:
    value = sent.get("input_type")
    if value is None:
        return None
    known = _INPUT_TYPES.get(value) if isinstance(value, str) else None
    if known is None:
        bad.append(errors.Violation("input_type", "must be 'query' or 'passage'"))
    return known


def _dimensions(sent: Mapping[str, Any], bad: list[errors.Violation]) -> int | None:
    value = sent.get("dimensions")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        bad.append(errors.Violation("dimensions", "must be a positive integer"))
        return None
    return value


def _format(sent: Mapping[str, Any], bad: list[errors.Violation]) -> str:
    value = sent.get("encoding_format")
    if value is None:
        return "float"
    if value not in _FORMATS:
        bad.append(errors.Violation("encoding_format", "must be 'float' or 'base64'"))
    return str(value)
