"""2,000 images of 32 to 4,000 pixels, each format up to that: 5% broken in different ways, from a slow server that
fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import test_images_whole_system

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
async def test_two_thousand_images_of_every_sort_come_back_in_order(tmp_path: Path) -> None:
    await test_images_whole_system.check(tmp_path, items=2_000, files=220, longest_edge=4_000)
