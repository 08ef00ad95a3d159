"""Chunks, backoff, leases and devices."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_worker.domain import backoff, chunks, devices, leases


@given(st.integers(1, 5000), st.integers(1, 8192), st.integers(1, 1 << 20))
def test_chunks_cover_all_items_in_order(items: int, row_bytes: int, max_bytes: int) -> None:
    spans = chunks.cut(items, row_bytes, max_bytes)
    assert [index for span in spans for index in range(span.start, span.stop)] == list(range(items))
    assert all((s.stop - s.start) * row_bytes <= max_bytes or s.stop - s.start == 1 for s in spans)


def test_backoff_grows_to_its_cap() -> None:
    assert backoff.delay_s(1, 0.0) == pytest.approx(0.1)
    assert backoff.delay_s(3, 0.5) == pytest.approx(0.6)
    assert backoff.delay_s(1000, 0.999) <= 10.0


def test_trust_ends_after_the_ttl() -> None:
    assert leases.trust_left_s(100.0, 10.0, 104.0) == 6.0
    assert leases.trust_left_s(100.0, 10.0, 111.0) == 0.0


CPU = devices.Device(0, "cpu", "CPU")
GPU = devices.Device(0, "GPU-1", "H200", vram_bytes=1000, compute_capability="9.0", torch_name="cuda:0")


def test_a_cpu_serves_what_asks_for_no_capability() -> None:
    assert devices.fits(devices.Needs("hash", vram_bytes=10**12), CPU)
    assert not devices.fits(devices.Needs("hash", min_compute_capability="8.0"), CPU)


def test_a_gpu_needs_memory_and_capability() -> None:
    assert devices.fits(devices.Needs("hash", 1000, "8.9"), GPU)
    assert not devices.fits(devices.Needs("hash", 1001), GPU)
    assert not devices.fits(devices.Needs("hash", 0, "10.0"), GPU)


def test_a_gpus_driver_needs_a_cuda_version_where_it_is_known() -> None:
    needs = devices.Needs("hash", min_cuda_version="12.4")
    old, new = (dataclasses.replace(GPU, cuda_version=version) for version in ("12.2", "12.10"))
    assert [devices.fits(needs, device) for device in (old, new, GPU, CPU)] == [False, True, True, True]
    assert devices.unavailable_reason(needs, [old], ["hash"]) == "No device here has a driver for CUDA 12.4."


def test_memory_that_a_gpu_does_not_tell_is_not_held_against_it() -> None:
    unified = dataclasses.replace(GPU, name="GB10", vram_bytes=0)
    needs = devices.Needs("hash", 10**12, "8.0")
    assert devices.fits(needs, unified)
    assert devices.unavailable_reason(needs, [unified], ["hash"]) == ""
    assert not devices.fits(dataclasses.replace(needs, min_compute_capability="10.0"), unified)


def test_of_a_gpu_in_trouble_nothing_is_known() -> None:
    gpu = devices.Device(0, "", "", torch_name="cuda:0", trouble="The driver cannot reach it.")
    assert devices.fits(devices.Needs("hash", 10**12, "8.0"), gpu)
    assert devices.unavailable_reason(devices.Needs("hash", 10**12, "8.0"), [gpu], ["hash"]) == ""


def test_the_reason_names_what_is_missing() -> None:
    assert "open_clip" in devices.unavailable_reason(devices.Needs("open_clip"), [CPU], ["hash"])
    assert "8.0" in devices.unavailable_reason(devices.Needs("hash", 0, "8.0"), [CPU], ["hash"])
    assert devices.unavailable_reason(devices.Needs("hash"), [CPU], ["hash"]) == ""
