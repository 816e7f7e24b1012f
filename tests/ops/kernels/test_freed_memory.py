"""Freed memory is kept: tensors of the same size need no new pages from the system."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from detrscope.ops.kernels.freed_memory import OTHERS, SWITCH

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

COUNT = """
import json, resource, statistics
import torch
from detrscope.ops.kernels.freed_memory import keep_freed_memory

def pages():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for side in (600, 1200, 3000):  # 1.4, 5.8 and 36 MB
        torch.ones(side, side).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

kept = keep_freed_memory()
# The first rounds find their places; later on, a small block that stays may push a large one to a new place once.
print(json.dumps([kept, statistics.median([pages() for _ in range(30)][10:])]))
"""


def kept_and_pages(**variables: str) -> tuple[bool, float]:
    """Return whether a process keeps its memory, and the new pages that it asks for in a round."""
    environment = {k: v for k, v in os.environ.items() if k not in (SWITCH, *OTHERS)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env=environment | variables, capture_output=True, text=True, check=True
    )
    kept, pages = json.loads(done.stdout)
    return kept, pages


def test_tensors_need_no_new_pages() -> None:
    kept, pages = kept_and_pages()
    assert kept and pages < 100


@pytest.mark.parametrize("variables", [{SWITCH: "0"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_other_settings_are_left_alone(variables: dict[str, str]) -> None:
    kept, pages = kept_and_pages(**variables)
    assert not kept and pages > 1000
