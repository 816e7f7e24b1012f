"""Two processes, joined by torchrun and gloo, take the steps of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import reliability_ddp


@pytest.mark.parametrize("case", ["detr, accumulated", "sprint-dense"])
def test_two_processes_take_the_steps_of_one(case: str, tmp_path: Path) -> None:
    """Images without boxes on one process, a last step without an image for one, denoising, norms that learn."""
    reliability_ddp.write_images(tmp_path / "data")
    losses, weights = reliability_ddp.differences(case, f"coco:{tmp_path}/data", 6, tmp_path, "float64")
    assert losses < 1e-10 and weights < 1e-10
