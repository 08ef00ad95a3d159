"""The rules of requests, without a wire."""

from __future__ import annotations

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.domain import items, pages, requests, violations, workloads

TEXT = workloads.Modality.TEXT


def test_enum_numbers_are_those_of_the_contract() -> None:
    assert set(requests.INPUT_TYPES) | {0} == set(workload_pb2.InputType.values())
    assert set(requests.DTYPES) | {0} == set(workload_pb2.Dtype.values())
    assert requests.DTYPE_FLOAT32 == workload_pb2.DTYPE_FLOAT32
    members = gateway_pb2.SubmitBatchRequest.DESCRIPTOR.oneofs_by_name["items"].fields
    assert {m.value for m in workloads.Modality} == {field.name for field in members}
    for kind in (item_pb2.TextItems, item_pb2.ImageItems, item_pb2.TaskItems):
        assert kind.DESCRIPTOR.fields_by_name["items"].number == 1


def test_violations_stop_at_their_limit() -> None:
    bad = violations.Violations()
    for n in range(violations.MAX_REPORTED + 5):
        bad.add(str(n), "x")
    assert bad.full
    assert len(bad.found) == violations.MAX_REPORTED


def test_uuids_become_canonical() -> None:
    bad = violations.Violations()
    upper = "4B7F6F0E-26CF-4C0C-8F3E-111111111111"
    assert requests.check_uuid("job_id", upper, bad) == upper.lower()
    assert not bad.found


def test_empty_keys_may_repeat_and_mix_with_others() -> None:
    bad = violations.Violations()
    items.check_keys(TEXT, ["", "a", "", "b"], bad)
    assert not bad.found


def test_a_key_of_256_bytes_is_taken() -> None:
    bad = violations.Violations()
    items.check_keys(TEXT, ["k" * 256, "é" * 128], bad)
    assert not bad.found


def test_no_limit_means_no_limit() -> None:
    bad = violations.Violations()
    items.check_texts(["x" * 1_000_000], 0, bad)
    assert not bad.found


def test_pages_walk_over_all_names() -> None:
    names = [f"w{n}" for n in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        shown, token = pages.page(names, 3, token)
        seen += shown
        if not token:
            break
    assert seen == names
