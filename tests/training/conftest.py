"""Training tests compute on one thread."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def single_threaded(one_thread: None) -> None:
    """On very small models, threads only wait for each other."""
