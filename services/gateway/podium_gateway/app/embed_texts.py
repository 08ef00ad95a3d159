"""Many texts, answered as one: checked as a whole, cut into interactive calls, all of them or none.

Promises: rows in the order of the texts; nothing is asked for while any text or option is bad; the first call that
fails ends the others. A call that is refused for want of room is tried again when another of the same request has
ended, so a request shrinks to one call at a time before it is refused itself. While a model is being loaded, a caller
whose deadline is later than the load's expected end is waited for: few who come over HTTP do so themselves.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from podium.common.v1 import item_pb2, result_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import callers, embed_routes, refusals, workloads
from podium_gateway.domain import cutting, items, requests, violations
from podium_gateway.domain import workloads as rules_of_workloads
from podium_runtime import clock, errors

CALL_ITEMS = 64
"""Of one interactive call; see EmbedRequest."""
CALL_BYTES = 1 << 20
"""Of texts in one call, unless one alone has more: a call waits behind the bytes of the one before it."""
CALLS_AT_A_TIME = 4
"""Of one request: enough to keep a worker busy while the next call is on its way, and no more than a few callers'."""
LOOK_AGAIN_S = 0.5
"""While a model is being loaded, which may take less time than was expected."""
FLOAT32_BYTES = 4
NO_TOKEN_IDS = "TOKEN_IDS_NOT_ACCEPTED"
"""Reason of a refusal."""

Input = str | Sequence[int]
"""A text, or the ids of its tokens."""

_TOKEN_ID_BYTES = 4
_LANGCHAIN = "With LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)"
"""Without it, it sends ids of OpenAI's tokenizers, whatever the model."""
_ITEM = re.compile(r"texts\.items\[(\d+)\]")


class Embed(Protocol):
    """The interactive lane."""

    async def __call__(
        self, caller: callers.Caller, request: gateway_pb2.EmbedRequest
    ) -> gateway_pb2.EmbedResponse: ...


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows of `dimension` little-endian float32 numbers. `pieces`: runs of whole rows, in order; together there is one
    row for each input. `token_count`: tokens read, special tokens included."""

    pieces: Sequence[bytes]
    dimension: int
    token_count: int


@dataclass(slots=True)
class _Answers:
    """What is still to be asked for, and what has come: one answer for each slice."""

    waiting: deque[int]
    received: dict[int, gateway_pb2.EmbedResponse]
    askers: int


class EmbedTexts:
    """Embeds any number of texts of one workload, or of texts as token ids where it accepts them."""

    def __init__(self, embed: Embed, registry: workloads.Registry, time: clock.Clock) -> None:
        self._embed = embed
        self._registry = registry
        self._clock = time

    async def __call__(
        self, caller: callers.Caller, workload: str, inputs: Sequence[Input], options: requests.Options
    ) -> Vectors:
        """`inputs` holds at least one. Field paths of errors are those of one EmbedRequest with all of them.

        Raises errors.NotFound (WORKLOAD_NOT_FOUND), InvalidArgument (its reason is an ItemErrorReason when an input has
        no vector, NO_TOKEN_IDS where the workload takes none), DeadlineExceeded, ResourceExhausted, Unavailable.
        """
        rules = await self._rules(workload)
        _check(inputs, options, rules)
        slices = cutting.cut([_size(one) for one in inputs], CALL_ITEMS, CALL_BYTES)
        answers = _Answers(deque(range(len(slices))), {}, min(CALLS_AT_A_TIME, len(slices)))
        calls = [_request(workload, inputs[s.first : s.first + s.count], options) for s in slices]
        starts = [s.first for s in slices]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(answers.askers):
                    group.create_task(self._ask(caller, calls, starts, answers))
        except ExceptionGroup as failures:
            raise _first(failures) from failures
        return _joined([answers.received[index].chunk for index in range(len(slices))], answers)

    async def _rules(self, workload: str) -> rules_of_workloads.WorkloadRules:
        rules = await self._registry.find(workload)
        if rules is None or rules_of_workloads.Modality.TEXT not in rules.modalities:
            raise errors.NotFound(f"there is no text workload {workload[:100]!r}", reason="WORKLOAD_NOT_FOUND")
        return rules

    async def _ask(
        self,
        caller: callers.Caller,
        calls: Sequence[gateway_pb2.EmbedRequest],
        starts: Sequence[int],
        answers: _Answers,
    ) -> None:
        """Asks for one slice after the other, until none waits."""
        while answers.waiting:
            index = answers.waiting.popleft()
            try:
                answer = await self._once_loaded(caller, calls[index])
            except errors.ResourceExhausted:
                if answers.askers == 1:
                    raise
                answers.askers -= 1
                answers.waiting.appendleft(index)
                return
            except errors.InvalidArgument as error:
                raise _moved(error, starts[index]) from error
            _check_answer(answer.chunk, len(calls[index].texts.items), starts[index])
            answers.received[index] = answer
        answers.askers -= 1

    async def _once_loaded(
        self, caller: callers.Caller, request: gateway_pb2.EmbedRequest
    ) -> gateway_pb2.EmbedResponse:
        while True:
            try:
                return await self._embed(caller, request)
            except errors.Unavailable as error:
                remaining_s = caller.remaining_s()
                if error.reason != embed_routes.NO_WARM_WORKER or remaining_s is None:
                    raise
                if remaining_s <= max(error.retry_after_s, LOOK_AGAIN_S):
                    raise
            await self._clock.sleep(LOOK_AGAIN_S)


def _check(inputs: Sequence[Input], options: requests.Options, rules: rules_of_workloads.WorkloadRules) -> None:
    bad = violations.Violations()
    requests.check_options(options, rules, bad)
    texts = [one if isinstance(one, str) else "" for one in inputs]
    counts = [None if isinstance(one, str) else len(one) for one in inputs]
    if not rules.accepts_token_ids and any(count is not None for count in counts):
        why = f"holds token ids, and workload {rules.name!r} takes none: send texts. {_LANGCHAIN}"
        raise errors.InvalidArgument([errors.Violation("texts.items", why)], reason=NO_TOKEN_IDS)
    items.check_token_ids(counts, texts, rules, bad)
    items.check_texts(texts, rules.max_text_bytes, bad, counts)
    refusals.raise_if_any(bad)


def _size(one: Input) -> int:
    return len(one.encode()) if isinstance(one, str) else _TOKEN_ID_BYTES * len(one)


def _item(one: Input) -> item_pb2.TextItem:
    if isinstance(one, str):
        return item_pb2.TextItem(text=one)
    return item_pb2.TextItem(token_ids=item_pb2.TokenIds(ids=one))


def _request(workload: str, inputs: Sequence[Input], options: requests.Options) -> gateway_pb2.EmbedRequest:
    items_of_call = [_item(one) for one in inputs]
    request = gateway_pb2.EmbedRequest(workload=workload, texts=item_pb2.TextItems(items=items_of_call))
    if options != requests.Options():
        request.options.CopyFrom(
            item_pb2.EmbeddingOptions(
                input_type=None if options.input_type is None else workload_pb2.InputType.Name(options.input_type),
                dimensions=options.dimensions,
            )
        )
    return request


def _check_answer(chunk: result_pb2.ResultChunk, asked: int, start: int) -> None:
    """Raises errors.InvalidArgument for texts without a vector, Internal for an answer to something else."""
    if chunk.errors:
        raise errors.InvalidArgument(
            [errors.Violation(f"texts.items[{start + e.item_index}].text", _why(e)) for e in chunk.errors],
            reason=result_pb2.ItemErrorReason.Name(chunk.errors[0].reason).removeprefix("ITEM_ERROR_REASON_"),
        )
    size = chunk.count * chunk.dimension * FLOAT32_BYTES
    if chunk.count != asked or chunk.dtype != workload_pb2.DTYPE_FLOAT32 or len(chunk.vectors) != size:
        raise errors.Internal(f"{asked} texts were answered with {chunk.count} rows in {len(chunk.vectors)} bytes")


def _why(error: result_pb2.ItemError) -> str:
    if error.reason == result_pb2.ITEM_ERROR_REASON_UNKNOWN_TOKEN:
        return f"{error.message} {_LANGCHAIN}"
    return error.message


def _joined(chunks: Sequence[result_pb2.ResultChunk], answers: _Answers) -> Vectors:
    if len({(chunk.dimension, chunk.provenance.model_name, chunk.provenance.revision) for chunk in chunks}) != 1:
        # The registry changed between two calls; a second try gets vectors of one kind.
        raise errors.Unavailable("the workload changed while it was asked", reason="WORKLOAD_CHANGED")
    tokens = sum(answer.token_count for answer in answers.received.values())
    return Vectors([chunk.vectors for chunk in chunks], chunks[0].dimension, tokens)


def _moved(error: errors.InvalidArgument, start: int) -> errors.InvalidArgument:
    """The error of one slice in terms of all texts."""

    def shift(match: re.Match[str]) -> str:
        return f"texts.items[{start + int(match[1])}]"

    moved = [errors.Violation(_ITEM.sub(shift, v.field), v.description) for v in error.violations]
    return errors.InvalidArgument(moved, reason=error.reason, metadata=error.metadata)


def _first(failures: Exception) -> Exception:
    """One error for all: a request has one answer."""
    while isinstance(failures, ExceptionGroup):
        failures = failures.exceptions[0]
    return failures
