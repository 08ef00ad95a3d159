"""The rules of requests, without a wire."""

from __future__ import annotations

import pytest

from podium.common.v1 import item_pb2, workload_pb2
from podium.gateway.v1 import gateway_pb2
from podium_gateway.app import workloads as registry
from podium_gateway.domain import items, pages, requests, violations, workloads

TEXT = workloads.Modality.TEXT


def test_enum_numbers_are_those_of_the_contract() -> None:
    assert set(requests.INPUT_TYPES) | {0} == set(workload_pb2.InputType.values())
    assert set(requests.DTYPES) | {0} == set(workload_pb2.Dtype.values())
    for number, name in requests.DTYPES.items():
        assert workload_pb2.Dtype.Name(number) == f"DTYPE_{name}"
    assert workloads.DTYPE_FLOAT32 == workload_pb2.DTYPE_FLOAT32
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


def rules(dtypes: list[workload_pb2.Dtype], lengths: list[int]) -> workloads.WorkloadRules:
    return registry.rules_of(
        workload_pb2.Workload(name="w", dimension=384, dtypes=dtypes, truncated_dimensions=lengths)
    )


ALL = [workload_pb2.DTYPE_FLOAT32, workload_pb2.DTYPE_FLOAT16, workload_pb2.DTYPE_INT8, workload_pb2.DTYPE_BINARY]


def refused(options: requests.Options, of: workloads.WorkloadRules) -> dict[str, str]:
    bad = violations.Violations()
    requests.check_options(options, of, bad)
    return {v.field: v.description for v in bad.found}


def test_what_a_workload_offers_is_taken() -> None:
    of = rules(ALL, [64, 128])
    for dtype in (None, *ALL):
        for dimensions in (None, 64, 128, 384):
            assert not refused(requests.Options(dimensions=dimensions, dtype=dtype), of)


def test_an_older_scheduler_means_float32() -> None:
    of = rules([], [])
    assert not refused(requests.Options(dtype=workload_pb2.DTYPE_FLOAT32, dimensions=384), of)
    assert set(refused(requests.Options(dtype=workload_pb2.DTYPE_FLOAT16), of)) == {"options.dtype"}


@pytest.mark.parametrize(
    ("options", "dtypes", "lengths", "field", "description"),
    [
        (
            requests.Options(dimensions=100),
            ALL,
            [64, 128],
            "options.dimensions",
            "workload 'w' has vectors of 64, 128 or 384 elements, not 100",
        ),
        (
            requests.Options(dimensions=0),
            ALL,
            [],
            "options.dimensions",
            "vectors of workload 'w' cannot be truncated; leave it unset for all 384 elements",
        ),
        (
            requests.Options(dtype=workload_pb2.DTYPE_INT8),
            ALL[:2],
            [],
            "options.dtype",
            "workload 'w' has vectors of FLOAT32 or FLOAT16, not INT8",
        ),
        (
            requests.Options(dtype=workload_pb2.DTYPE_BINARY),
            [],
            [],
            "options.dtype",
            "workload 'w' has vectors of FLOAT32, not BINARY",
        ),
        (
            requests.Options(dtype=0),
            ALL,
            [],
            "options.dtype",
            "must be FLOAT32, FLOAT16, INT8 or BINARY; leave it unset for FLOAT32",
        ),
    ],
)
def test_what_it_does_not_offer_is_refused_with_what_it_does(
    options: requests.Options, dtypes: list[workload_pb2.Dtype], lengths: list[int], field: str, description: str
) -> None:
    assert refused(options, rules(dtypes, lengths)) == {field: description}


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a.jpg",
        "https://user-content.example.com:8443/ü/a b.jpg?q=1#f",
        "s3://bucket/key",
        "https://[2001:db8::1]/",
        "https://h/" + "a" * (8192 - len("https://h/")),
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    bad = violations.Violations()
    items.check_images([url], [0], 1, bad)
    assert not bad.found


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("", "must begin with http://, https:// or s3://"),
        ("ftp://h/a", "must begin with http://, https:// or s3://"),
        ("file:///etc/passwd", "must begin with http://, https:// or s3://"),
        (" https://h/a", "must begin with http://, https:// or s3://"),
        ("data:image/png;base64,AA==", "must begin with http://, https:// or s3://"),
        ("https://", "names no host (or, with s3://, no bucket)"),
        ("https:///a.jpg", "names no host (or, with s3://, no bucket)"),
        ("s3://?x", "names no host (or, with s3://, no bucket)"),
        ("http://h/a\r\nHost: metadata", "holds a control character; percent-encode it"),
        ("http://h/\x00", "holds a control character; percent-encode it"),
        ("http://h/\x85", "holds a control character; percent-encode it"),
        ("https://h/" + "a" * 8183, "is 8,193 bytes; at most 8,192 are allowed"),
        ("https://h/" + "é" * 4092, "is 8,194 bytes; at most 8,192 are allowed"),
    ],
)
def test_urls_that_are_refused(url: str, description: str) -> None:
    bad = violations.Violations()
    items.check_images(["https://h/good", url], [0, 0], 1, bad)
    assert bad.found == [violations.Violation("images.items[1].url", description)]


@pytest.mark.parametrize(
    ("size", "limit", "description"),
    [
        (32 << 20, 64 << 20, ""),
        (32 << 20, 0, ""),
        ((32 << 20) + 1, 64 << 20, "is 33,554,433 bytes; at most 33,554,432 can be sent inline: give its url instead"),
        ((32 << 20) + 1, 0, "is 33,554,433 bytes; at most 33,554,432 can be sent inline: give its url instead"),
        ((64 << 20) + 1, 64 << 20, "is 67,108,865 bytes; the workload's limit is 67,108,864"),
        (101, 100, "is 101 bytes; the workload's limit is 100"),
    ],
)
def test_an_inline_image_fits_into_a_frame(size: int, limit: int, description: str) -> None:
    bad = violations.Violations()
    items.check_images([None], [size], limit, bad)
    assert [v.description for v in bad.found] == ([description] if description else [])
