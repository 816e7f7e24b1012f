"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

# One of several processes: threads of each would wait for those of the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from detrscope.console import log
from detrscope.ops.kernels.freed_memory import keep_freed_memory
from tests.support.datasets import make_coco, make_dataset

__all__ = ["make_coco", "make_dataset"]  # fixtures

# The same examples every time and everywhere, so that a test cannot fail by chance; no time limit of its own.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Two threads: the suite is meant for small machines and equal results. OMP_NUM_THREADS=1 is heard."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def kept_memory() -> None:
    """Keep freed memory from the first test on, as every command does: models of the tests' oracles gain too."""
    keep_freed_memory()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real datasets that are not part of the project; set DETRSCOPE_DATA to point elsewhere."""
    folder = Path(os.environ.get("DETRSCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "bccd").is_dir():
        pytest.skip("no real data here: set DETRSCOPE_DATA to a folder with bccd/ and coco-tiny/")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: on very small models, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pytest read the log, which commands keep to themselves, at the level of a fresh process.

    A command that a fixture of a module runs comes before this one, and leaves its own level.
    """
    monkeypatch.setattr(log, "propagate", True)
    log.setLevel(logging.NOTSET)
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    log.setLevel(logging.NOTSET)
    for handler in set(root.handlers) - set(handlers):  # that forwards the log of other packages
        root.removeHandler(handler)
