"""For `make test-gpu` alone: a machine without a GPU fails these tests, it does not skip them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first GPU."""
    assert torch.cuda.is_available(), "this machine has no GPU that torch can use"
    return torch.device("cuda:0")
