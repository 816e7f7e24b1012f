"""Fixture: a dataset for subsets and conversion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.datasets import MakeCoco, box


@pytest.fixture
def farm(make_coco: MakeCoco) -> Path:
    """30 images: 1..12 with dogs, 13..15 with a crowd of dogs only, 16..25 with cats, then none."""
    rows = [box(i, 7, [1, 1, 9, 9]) for i in range(1, 13)]
    rows += [box(i, 7, [1, 1, 30, 9], iscrowd=1) for i in range(13, 16)]
    rows += [box(i, 1, [2, 2, 9, 9]) for i in range(16, 26)] + [box(1, 1, [3, 3, 9, 9])]
    return make_coco(rows, images=30)
