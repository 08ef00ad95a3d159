"""Micro-batches on their way to a real device, and memory that really runs out."""

from __future__ import annotations

import random

import torch

from podium_worker.adapters.torch import image_tower, lane, memory
from podium_worker.app import backend
from podium_worker.domain import microbatches, pictures

MODEL = backend.Model("lane", "open_clip", dimension=2)
WIDTH = 4_096


def forward(inputs: lane.Inputs) -> torch.Tensor:
    """Slow enough that the next upload comes while this one is computed."""
    rows = inputs["rows"]
    product = rows @ torch.ones(WIDTH, WIDTH, device=rows.device)
    return torch.stack([rows[:, 0], product[:, 0] / WIDTH], dim=1)


def test_rows_are_exact_and_in_input_order(gpu: torch.device) -> None:
    """Pinned memory is used again and again, on two streams: whatever comes too early or too late shows here."""
    way = lane.Lane(MODEL, gpu, 2_000)
    dice = random.Random(7)
    lengths = [dice.randint(1, 200) for _ in range(5_000)]

    def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
        rows = way.empty((len(cut.indices), WIDTH), torch.float32)
        rows.copy_(torch.tensor(cut.indices, dtype=torch.float32).unsqueeze(1).expand(-1, WIDTH))
        return {"rows": rows}

    seen: list[int] = []
    computed = way.compute(lengths, stage, forward, lambda done: not seen.append(done))  # type: ignore[func-returns-value]
    assert computed.vectors[:, 0].tolist() == list(range(5_000))
    assert computed.vectors[:, 1].tolist() == list(range(5_000))
    assert seen == sorted(seen) and seen[-1] == 5_000


def test_memory_that_runs_out_halves_the_budget_for_good(gpu: torch.device) -> None:
    way = lane.Lane(MODEL, gpu, 64)
    memory.release()
    _, total = torch.cuda.mem_get_info(gpu)
    sizes: list[int] = []

    def hungry(inputs: lane.Inputs) -> torch.Tensor:
        rows = inputs["rows"]
        sizes.append(len(rows))
        # Twelve items fill the device.
        taken = torch.empty(len(rows) * (total // 12), dtype=torch.uint8, device=gpu)
        taken[:1].zero_()
        return torch.stack([rows[:, 0], rows[:, 0] * 10], dim=1)

    def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
        return {"rows": torch.tensor(cut.indices, dtype=torch.float32).unsqueeze(1)}

    computed = way.compute([1] * 100, stage, hungry, lambda done: True)
    assert not computed.out_of_memory
    assert computed.vectors[:, 1].tolist() == [index * 10 for index in range(100)]
    assert way.budget in (4, 8) and [size for size in sizes if size > 8] == [64, 32, 16]


def test_an_item_that_does_not_fit_alone_is_named(gpu: torch.device) -> None:
    way = lane.Lane(MODEL, gpu, 4)
    _, total = torch.cuda.mem_get_info(gpu)

    def picky(inputs: lane.Inputs) -> torch.Tensor:
        rows = inputs["rows"]
        if 7.0 in rows:
            torch.empty(total * 2, dtype=torch.uint8, device=gpu)
        return torch.stack([rows[:, 0], rows[:, 0]], dim=1)

    def stage(cut: microbatches.Microbatch, riders: backend.Prepared | None) -> lane.Inputs:
        return {"rows": torch.tensor(cut.indices, dtype=torch.float32).unsqueeze(1)}

    computed = way.compute([1] * 20, stage, picky, lambda done: True)
    assert computed.out_of_memory == {7}
    assert [int(row[0]) for index, row in enumerate(computed.vectors) if index != 7] == [*range(7), *range(8, 20)]


def test_pixels_are_those_of_the_cpu_bit_for_bit(gpu: torch.device) -> None:
    look = image_tower.Look(
        pictures.Picture(32, 32, edge=32), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    rows = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    seen = {}
    for device in (torch.device("cpu"), gpu):
        kept: list[torch.Tensor] = []

        def encode(pixels: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(pixels.cpu())
            return pixels[:, :2, 0, 0]

        model = backend.Model("look", "open_clip", dimension=2, image_budget=64)
        tower = image_tower.ImageTower(model, device, torch.float32, look, encode)
        tower.compute(image_tower.Pictures(rows.numpy()), lambda done: True)
        seen[device.type] = torch.cat(kept)
    assert torch.equal(seen["cpu"], seen["cuda"])
