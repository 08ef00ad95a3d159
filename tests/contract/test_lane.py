"""Micro-batches on their way to a device: order, memory that runs out, batches that are not wanted any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from podium_worker.adapters.torch import lane, memory, precision, probing
from podium_worker.app import backend
from podium_worker.domain import budgets, microbatches
from tests.support import riders

MODEL = backend.Model("lane", "open_clip", dimension=2)
CPU = torch.device("cpu")


def _stage(cut: microbatches.Microbatch, others: backend.Prepared | None) -> lane.Inputs:
    return {"index": torch.tensor(cut.indices, dtype=torch.float32)}


def _forward(inputs: lane.Inputs) -> torch.Tensor:
    index = inputs["index"]
    return torch.stack([index, index * 10], dim=1)


def _with_room_for(items: int, seen: list[int]) -> lane.Forward:
    def forward(inputs: lane.Inputs) -> torch.Tensor:
        seen.append(len(inputs["index"]))
        if len(inputs["index"]) > items:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return _forward(inputs)

    return forward


def _never_says_no(done: int) -> bool:
    return True


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_rows_are_in_input_order_and_progress_counts_what_has_arrived(ahead: int) -> None:
    way = lane.Lane(MODEL, CPU, 20, ahead=ahead)
    lengths = [index % 7 + 1 for index in range(50)]
    begun, seen = [0], []

    def forward(inputs: lane.Inputs) -> torch.Tensor:
        begun[0] += len(inputs["index"])
        return _forward(inputs)

    def progress(done: int) -> bool:
        seen.append((done, begun[0]))
        return True

    computed = way.compute(lengths, _stage, forward, progress)
    assert computed.vectors.tolist() == [[index, index * 10] for index in range(50)]
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (50, 50)
    # Of all but the last ones, some are on the device when those before them arrive.
    assert any(started > done for done, started in seen) == (ahead > 0)


@pytest.mark.parametrize("ahead", [0, 1])
def test_memory_that_runs_out_lowers_the_budget_for_good(ahead: int) -> None:
    way, seen = lane.Lane(MODEL, CPU, 32, ahead=ahead), list[int]()
    forward = _with_room_for(8, seen)
    computed = way.compute([1] * 100, _stage, forward, _never_says_no)
    assert computed.vectors[:, 0].tolist() == list(range(100))
    assert not computed.out_of_memory
    assert way.budget == 8
    assert [size for size in seen if size > 8] == [32, 16], "what was cut before is cut again, not tried"
    seen.clear()
    way.compute([1] * 100, _stage, forward, _never_says_no)
    assert max(seen) == 8


def test_items_that_do_not_fit_alone_are_named_and_the_rest_succeeds() -> None:
    def forward(inputs: lane.Inputs) -> torch.Tensor:
        if 3.0 in inputs["index"] or 40.0 in inputs["index"]:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 GB")
        return _forward(inputs)

    done: list[int] = []
    way = lane.Lane(MODEL, CPU, 16)
    computed = way.compute([1] * 50, _stage, forward, lambda count: not done.append(count))  # type: ignore[func-returns-value]
    assert computed.out_of_memory == {3, 40}
    assert [row[0] for index, row in enumerate(computed.vectors.tolist()) if index not in (3, 40)] == [
        index for index in range(50) if index not in (3, 40)
    ]
    assert done[-1] == 50
    assert way.budget == 1


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_item_that_did_not_fit_beside_others_is_tried_alone(ahead: int) -> None:
    seen: list[float] = []

    def forward(inputs: lane.Inputs) -> torch.Tensor:
        seen.append(float(inputs["index"][0]))
        if seen.count(3.0) == 1 and seen[-1] == 3.0:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return _forward(inputs)

    computed = lane.Lane(MODEL, CPU, 1, ahead=ahead).compute([1] * 5, _stage, forward, _never_says_no)
    assert not computed.out_of_memory
    assert computed.vectors[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen == [0, 1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be reported at",
    ],
)
def test_memory_that_cuda_itself_lacks_is_memory(message: str) -> None:
    """Pinned memory is not torch's own allocator's, whose errors have a class."""
    error = torch.OutOfMemoryError if message.startswith("CUDA out") else RuntimeError
    assert memory.is_exhaustion(error(message))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def forward(inputs: lane.Inputs) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        lane.Lane(MODEL, CPU, 16).compute([1] * 50, _stage, forward, _never_says_no)


def _stage_with_riders(cut: microbatches.Microbatch, others: backend.Prepared | None) -> lane.Inputs:
    rows = others.work if others is not None else []
    return {"index": torch.tensor([*cut.indices, *rows], dtype=torch.float32)}


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_riders_are_rows_of_the_micro_batches_that_they_board(ahead: int) -> None:
    way = lane.Lane(MODEL, CPU, 20, ahead=ahead)
    beside = riders.Riders(backend.Prepared([700, 701], 2, sizes=[3, 9]), {1, 2, 4})
    lengths = [index % 7 + 1 for index in range(50)]
    computed = way.compute(lengths, _stage_with_riders, _forward, _never_says_no, beside)
    assert computed.vectors.tolist() == [[index, index * 10] for index in range(50)]
    assert [rows.tolist() for rows in beside.rows] == [[[700, 7000], [701, 7010]]] * 3
    assert beside.own == 50
    # With two rows as wide as 9, there is no room for a third but for the one that must be there.
    assert max(beside.sizes) == 27 and sorted(beside.sizes)[-4] <= 20


@pytest.mark.parametrize("ahead", [0, 1])
def test_riders_are_the_first_to_go_when_memory_runs_out(ahead: int) -> None:
    way, seen = lane.Lane(MODEL, CPU, 16, ahead=ahead), list[int]()
    beside = riders.Riders(backend.Prepared([700], 1), {1})

    def forward(inputs: lane.Inputs) -> torch.Tensor:
        if 700.0 in inputs["index"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return _with_room_for(16, seen)(inputs)

    computed = way.compute([1] * 40, _stage_with_riders, forward, _never_says_no, beside)
    assert computed.vectors[:, 0].tolist() == list(range(40))
    assert (beside.refused, beside.rows, beside.own) == (1, [], 40)
    assert (seen, way.budget) == ([16, 16, 8], 16)


def test_the_budget_never_rises_again() -> None:
    """A call that is computed while a micro-batch is boarded may find less memory than that micro-batch does."""
    way, seen = lane.Lane(MODEL, CPU, 32), list[int]()

    class Beside(backend.Alone):
        def board(self, width: int, rows: int, budget: int) -> backend.Aboard:
            if not seen:
                way.compute([1] * 8, _stage, _with_room_for(2, seen), _never_says_no)
            return backend.Aboard(budget)

    way.compute([1] * 64, _stage, _with_room_for(16, seen), _never_says_no, Beside())
    assert way.budget == 2


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_batch_that_is_not_wanted_ends_between_two_microbatches(ahead: int) -> None:
    seen: list[int] = []
    way = lane.Lane(MODEL, CPU, 10, ahead=ahead)
    with pytest.raises(backend.Abandoned):
        way.compute([1] * 100, _stage, _with_room_for(100, seen), lambda done: done < 30)
    assert len(seen) == 3 + ahead


def test_rows_of_another_length_are_the_registrys_fault() -> None:
    with pytest.raises(backend.ModelUnavailable, match="makes 2 elements; its registry entry says 3"):
        lane.Lane(backend.Model("lane", "timm", 3), CPU, 10).compute([1], _stage, _forward, _never_says_no)


def _device_with(capacity: int) -> Callable[[int], None]:
    def rehearse(size: int) -> None:
        if size > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return rehearse


def test_a_search_survives_memory_that_runs_out() -> None:
    found = probing.search(budgets.Bounds(first=1, most=1_024), CPU, _device_with(100))
    assert 1 <= found <= 64
    assert memory.release() == 0


@pytest.mark.parametrize(("passes", "budget"), [([9.0, 0.05, 5.0], 16), ([0.95, 0.8], 12), ([6.0], 1)])
def test_images_on_a_cpu_are_as_many_as_the_quickest_pass_allows(
    passes: list[float], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, left = [0.0], passes * 4
    monkeypatch.setattr("podium_worker.adapters.torch.probing.time.perf_counter", lambda: now[0])

    def rehearse(count: int) -> None:
        assert count == 1
        now[0] += left.pop(0)

    monkeypatch.setattr(probing, "_PASSES_S", 10.0 if len(passes) == 3 else 1.0)
    assert probing.images(CPU, rehearse) == budget


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")]
)
def test_auto_is_what_the_device_is_good_at(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    auto = backend.Model("lane", "timm", 3, precision="auto")
    assert precision.name(precision.dtype(auto, torch.device("cuda:0"))) == expected
    assert precision.name(precision.dtype(auto, CPU)) == "float32"
