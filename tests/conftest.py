"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Two threads: the suite is meant for small machines and equal results. OMP_NUM_THREADS=1 is heard."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real datasets that are not part of the project; set DETRSCOPE_DATA to point elsewhere."""
    folder = Path(os.environ.get("DETRSCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "bccd").is_dir():
        pytest.skip("no real data here: set DETRSCOPE_DATA to a folder with bccd/ and coco-tiny/")
    return folder
