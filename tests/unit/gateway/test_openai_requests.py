"""The body of an embeddings request, and what errors become: every answer is one that a client can read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.common.v1 import workload_pb2
from podium_gateway.adapters.http import refusals, requests
from podium_gateway.domain import requests as rules
from podium_runtime import errors, statuses

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "input", "encoding_format", "dimensions", "user", "input_type", "other"])


def parse(**fields: Any) -> requests.EmbeddingsRequest:
    return requests.parse(json.dumps(fields).encode())


def fields_of(**fields: Any) -> list[str]:
    with pytest.raises(errors.InvalidArgument) as refused:
        parse(**fields)
    return [violation.field for violation in refused.value.violations]


def test_a_string_and_a_list() -> None:
    assert parse(model="m", input="a") == requests.EmbeddingsRequest("m", ("a",), rules.Options(), False, True)
    asked = parse(model="m", input=["a", "b"], encoding_format="base64", dimensions=2, input_type="passage", user="u")
    assert (list(asked.inputs), asked.base64, asked.single) == (["a", "b"], True, False)
    assert asked.options == rules.Options(input_type=int(workload_pb2.INPUT_TYPE_PASSAGE), dimensions=2)


def test_null_is_the_default() -> None:
    asked = parse(model="m", input="a", encoding_format=None, dimensions=None, user=None, input_type=None)
    assert asked == parse(model="m", input="a")


def test_all_bad_fields_are_named_at_once() -> None:
    found = fields_of(model="", input=["a", 1, None], encoding_format=1, dimensions=True, user=3, input_type=[], top=1)
    assert found == ["top", "model", "input[1]", "input[2]", "input_type", "dimensions", "encoding_format", "user"]


@pytest.mark.parametrize("given_", [None, 7, {}, [], True, {"a": "b"}])
def test_an_input_that_is_no_text(given_: Any) -> None:
    assert fields_of(model="m", input=given_) == ["input"]


def test_token_ids_of_one_text_and_of_several() -> None:
    one, several = parse(model="m", input=[1, 2, 2**32 - 1]), parse(model="m", input=[[0], [2, 3]])
    assert (list(one.inputs), one.single) == ([[1, 2, 2**32 - 1]], True)
    assert (list(several.inputs), several.single) == ([[0], [2, 3]], False)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ([True], "input[0]"),
        ([1.5], "input[0]"),
        ([[]], "input[0]"),
        ([[True]], "input[0][0]"),
        ([["a"]], "input[0][0]"),
        ([[1], [2, -3]], "input[1][1]"),
        ([[1], 2], "input[1]"),
        ([1, 2.5], "input[1]"),
        ([1, 2**32], "input[1]"),
        ([1, [2]], "input[1]"),
        (["a", [2]], "input[1]"),
    ],
)
def test_what_is_neither_a_text_nor_token_ids(wrong: Any, field: str) -> None:
    assert fields_of(model="m", input=wrong) == [field]


@pytest.mark.parametrize("mistakes", [[None] * 2048, [-1] * 2048, [[]] * 2048, [[1, *[None] * 2048]] * 2048])
def test_a_request_of_nothing_but_mistakes_is_a_bounded_answer(mistakes: Any) -> None:
    assert len(fields_of(model="m", input=mistakes)) == 100


@given(st.dictionaries(NAMES, VALUES) | VALUES)
def test_whatever_is_sent_is_a_request_or_a_refusal_with_fields(sent: Any) -> None:
    try:
        asked = requests.parse(json.dumps(sent).encode())
    except errors.InvalidArgument as error:
        assert error.violations
        answer = refusals.of(error).response()
        assert answer.status_code == 400
        assert set(json.loads(bytes(answer.body))["error"]) == {"message", "type", "param", "code"}
    else:
        assert asked.model and asked.inputs
        ids = [one for text in asked.inputs if not isinstance(text, str) for one in text]
        assert all(type(one) is int and 0 <= one < 2**32 for one in ids)


@given(st.binary(max_size=50))
def test_bytes_are_never_a_crash(body: bytes) -> None:
    with pytest.raises(errors.InvalidArgument):
        requests.parse(body)


@pytest.mark.parametrize("kind", list(statuses.CODES))
def test_every_error_has_its_status(kind: type[errors.PodiumError]) -> None:
    error = (
        errors.InvalidArgument([errors.Violation("f", "is bad")])
        if kind is errors.InvalidArgument
        else kind("a message")
    )
    refusal = refusals.of(error)
    # 409 and 408 would be tried again although nothing can change.
    assert refusal.status not in (408, 409) and 400 <= refusal.status < 600
    assert ("retry-after" in refusal.headers) == (refusal.status in (429, 503))
    assert refusal.headers["x-podium-reason"] == error.reason
    assert (refusal.status == 500) == (kind is errors.Internal)


@pytest.mark.parametrize(
    ("field", "single", "name"),
    [
        ("texts.items[17].text", False, "input[17]"),
        ("texts.items[0].text", True, "input"),
        ("texts.items[17].token_ids", False, "input[17]"),
        ("texts.items[0].token_ids", True, "input"),
        ("texts.items", False, "input"),
        ("items", False, "input"),
        ("workload", False, "model"),
        ("options.dimensions", False, "dimensions"),
        ("input[3]", False, "input[3]"),
    ],
)
def test_fields_have_the_names_that_the_client_knows(field: str, single: bool, name: str) -> None:
    error = errors.InvalidArgument([errors.Violation(field, "is bad")], reason="WHY")
    renamed = refusals.renamed(error, single=single)
    assert (renamed.violations[0].field, renamed.reason, renamed.message) == (name, "WHY", f"{name}: is bad")


@pytest.mark.parametrize(
    ("wait_s", "seconds", "milliseconds"), [(0.0, "1", "1"), (0.1, "1", "100"), (61.2, "62", "61200")]
)
def test_waits_are_rounded_up(wait_s: float, seconds: str, milliseconds: str) -> None:
    headers = refusals.of(errors.Unavailable("away", retry_after_s=wait_s)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == (seconds, milliseconds)
